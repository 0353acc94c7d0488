"""Examples of every command, for its `--help` and the manual.

What it is for, then the line, as a person types it into a shell. The tests read each line as the program would, so that
an option that is renamed is renamed here too.
"""

_MODEL = "meta-llama/Llama-3.1-8B"
_CACHE = "/var/tmp/neuron-compile-cache"

# Command without the program's name -> what for, and the line.
EXAMPLES: dict[str, tuple[tuple[str, str], ...]] = {
    "": (
        ("put the shim first on PATH, in this shell", 'eval "$(neuron-store env)"'),
        ("or for one command alone, with a summary at its end", "neuron-store run -- python train.py"),
        ("see what it saved", "neuron-store stats"),
        ("what a command does, with examples", "neuron-store pull --help"),
    ),
    "env": (
        ("put the shim first on PATH; into ~/.bashrc, too", 'eval "$(neuron-store env)"'),
        ("fish says it in its own way", "neuron-store env --shell fish | source"),
        ("take it off again", 'eval "$(neuron-store env --unset)"'),
        ("the folder, for a Dockerfile's ENV PATH", "neuron-store env --path"),
    ),
    "run": (
        ("a training, and what was compiled or served at its end", "neuron-store run -- torchrun train.py"),
        (
            "note what a model needs, for `lookup` and `pull` on other hosts",
            f"neuron-store run -m {_MODEL} --batch-size 1 --sequence-length 2048 -- python export.py",
        ),
        ("do not wait for uploads", "neuron-store run --no-push -- python train.py"),
    ),
    "add": (
        (
            "compile a small export, push it, register it",
            f"neuron-store add -m {_MODEL} --task text-generation --batch-size 4 --sequence-length 4096",
        ),
        ("by a program of your own", f"neuron-store add -m {_MODEL} -- python my_training.py"),
        ("only see the command line", "neuron-store add -m prajjwal1/bert-tiny --train-batch-size 16 --dry-run"),
    ),
    "stats": (
        ("of the last two days", "neuron-store stats --since 2d"),
        ("a line for each model; or day, compiler, host", "neuron-store stats --by model"),
        (
            "for Prometheus' textfile collector",
            "neuron-store stats --prometheus /var/lib/node_exporter/neuron_store.prom",
        ),
        ("every counter, for a program", "neuron-store stats --json"),
    ),
    "report": (
        ("one page: time saved, hit rate, what was slow, why misses were", "neuron-store report -o report.html"),
        ("a picture of the last month", "neuron-store report --png --since 30d"),
    ),
    "watch": (
        ("a job that runs, from another terminal; Ctrl-C ends it", "neuron-store watch"),
        ("how things stand, for a script", "neuron-store watch --once --json"),
        ("into a log, until it was quiet for ten minutes", "neuron-store watch --until-idle 600 > watch.log"),
    ),
    "list": (
        ("what the local store holds, the newest first", "neuron-store list"),
        ("the ten largest", "neuron-store list --sort size --limit 10"),
        ("what took a minute and more to compile, since yesterday", "neuron-store list --min-seconds 60 --since 1d"),
        ("a remote's models", "neuron-store list my-org/cache --models"),
    ),
    "show": (
        ("a result, by the first digits of its key", "neuron-store show 3fa9"),
        ("for a program", "neuron-store show 3fa9 --json"),
        ("the record that a remote gets", "neuron-store show 3fa9 --as-uploaded"),
    ),
    "config": (
        ("every setting, its value and where it came from", "neuron-store config"),
        ("for a program", "neuron-store config --json"),
        ("set one", "neuron-store config set max_size 200G"),
    ),
    "config set": (
        ("keep the store below 200 GB", "neuron-store config set max_size 200G"),
        ("a folder that all hosts share", "neuron-store config set remotes file:///fsx/neuron-store"),
        ("back to the default", "neuron-store config set max_size ''"),
    ),
    "key": (
        (
            "of what a framework would run",
            "neuron-store key -- neuronx-cc compile model.hlo_module.pb --framework XLA --target trn1",
        ),
        ("for a program", "neuron-store key --json -- neuronx-cc compile model.hlo_module.pb --target trn1"),
    ),
    "explain": (
        ("why the last miss was one", "neuron-store explain"),
        ("what tells a result from its nearest neighbour", "neuron-store explain 3fa9"),
        (
            "whether a command line would be served, and if not, why",
            "neuron-store explain -- neuronx-cc compile model.hlo_module.pb --target trn1",
        ),
    ),
    "verify": (
        ("that the store is whole", "neuron-store verify"),
        ("mend it, from a remote where need be", "neuron-store verify --repair"),
        ("that a remote is whole", "neuron-store verify --remote my-org/my-cache"),
        ("that the compiler still makes the same, of one in twenty", "neuron-store verify --recompile 5%"),
    ),
    "create": (
        ("a private repo: me/optimum-neuron-cache", "neuron-store create"),
        ("one for a team", "neuron-store create -n my-org/neuron-cache"),
        ("that everyone can read", "neuron-store create -n my-org/neuron-cache --public"),
    ),
    "set": (
        ("use a team's repo", "neuron-store set my-org/neuron-cache"),
        ("that of another Hub's user", "neuron-store set me/optimum-neuron-cache"),
    ),
    "lookup": (
        ("will a run compile anything?", f"neuron-store lookup {_MODEL}"),
        ("in this shape", f"neuron-store lookup {_MODEL} --batch-size 1 --sequence-length 2048"),
        ("for a program; the exit code is 1 if there is no entry", f"neuron-store lookup {_MODEL} --json"),
    ),
    "push": (
        ("upload what is queued, and wait", "neuron-store push"),
        ("at the end of a job, no longer than five minutes", "neuron-store push --timeout 300"),
    ),
    "synchronize": (
        ("upload all that the remotes lack", "neuron-store synchronize"),
        ("and fetch all that is lacking here", "neuron-store synchronize --pull"),
        (
            "a stock cache's folder to a repo of its layout",
            f"neuron-store synchronize --cache-dir {_CACHE} --repo-id my-org/neuron-cache",
        ),
    ),
    "pull": (
        ("all that a model needs, before the network goes", f"neuron-store pull {_MODEL}"),
        ("two results, by the first digits of their keys", "neuron-store pull 3fa9 07c1"),
        ("all of the compiler that is installed", "neuron-store pull --all --compiler 2.21"),
    ),
    "remote": (
        ("whether the remotes work", "neuron-store remote status"),
        ("for a program", "neuron-store remote status --json"),
    ),
    "remote status": (
        ("whether the remotes work, and what waits for them", "neuron-store remote status"),
        ("for a program", "neuron-store remote status --json"),
    ),
    "import": (
        ("what this host has compiled so far", f"neuron-store import {_CACHE}"),
        ("a tarball of another's", "neuron-store import cache.tar.gz --target trn1"),
        ("a repo of the stock layout", "neuron-store import hf://aws-neuron/optimum-neuron-cache -c 2.21"),
    ),
    "export": (
        ("for hosts without the shim", f"neuron-store export {_CACHE}"),
        ("only these results", f"neuron-store export {_CACHE} 3fa9 07c1"),
        ("into a repo that optimum-neuron reads", "neuron-store export hf://my-org/stock-cache -c 2.21"),
    ),
    "stock": (
        ("what is in the stock cache, and who holds its locks", "neuron-store stock status"),
        ("what a cleanup would remove", "neuron-store stock cleanup --dry-run"),
    ),
    "stock status": (
        ("of this host's stock cache", "neuron-store stock status"),
        ("of a folder", "neuron-store stock status /fsx/neuron-cache"),
    ),
    "stock cleanup": (
        ("only see what would go", "neuron-store stock cleanup --dry-run"),
        ("stale locks, which keep others waiting", "neuron-store stock cleanup --locks"),
        ("what other compilers made", f"neuron-store stock cleanup {_CACHE} --old-versions --yes"),
    ),
    "precompile": (
        ("what neuron_parallel_compile's trial run collected", f"neuron-store precompile {_CACHE}"),
        ("four at once, and into the folder, too", f"neuron-store precompile {_CACHE} -j 4 --write-back"),
        (
            "graphs, with the compiler's options",
            "neuron-store precompile graphs/*.hlo_module.pb -- --target trn1 -O1",
        ),
    ),
    "gc": (
        ("until the limits of the settings hold", "neuron-store gc"),
        ("only see what would go", "neuron-store gc --max-size 200G --dry-run"),
        ("what was not used for a month", "neuron-store gc --older-than 30d"),
        ("see what a remote could do without", "neuron-store gc --remote my-org/cache --older-than 90d --dry-run"),
    ),
    "pin": (
        ("keep all that a model needs", f"neuron-store pin {_MODEL}"),
        ("keep a result", "neuron-store pin 3fa9"),
        ("what is kept", "neuron-store pin"),
    ),
    "unpin": (
        ("let a model go", f"neuron-store unpin {_MODEL}"),
        ("let everything go", "neuron-store unpin --all"),
    ),
    "clear": (
        ("empty the store, after a question", "neuron-store clear"),
        ("without one, pinned results too", "neuron-store clear --yes --all"),
    ),
    "du": (
        ("what models and compilers take", "neuron-store du"),
        ("for a program", "neuron-store du --json"),
    ),
    "recompress": (
        ("smaller, once the compiling is done", "neuron-store recompress --level 19"),
        ("as it is, for the fastest hits", "neuron-store recompress --level 0 -j 4"),
    ),
    "doctor": (
        ("what is wrong in this shell", "neuron-store doctor"),
        ("for a program", "neuron-store doctor --json"),
        ("only what matters, and no network", "neuron-store doctor --brief --offline"),
    ),
    "bugreport": (
        ("one file to look through, then to attach to an issue", "neuron-store bugreport"),
        ("elsewhere, as a .zip", "neuron-store bugreport -o /tmp/report.zip"),
    ),
    "bench": (
        ("on a small built-in set", "neuron-store bench"),
        (
            "on your own subgraphs, with a picture",
            f"neuron-store bench {_CACHE}/*/*/model.hlo_module.pb --flags '--target=trn1' --plot saved.png",
        ),
    ),
    "completion": (
        ("in every new shell from now on", "neuron-store completion --install"),
        ("in this bash", 'eval "$(neuron-store completion bash)"'),
        ("in fish", "neuron-store completion fish | source"),
        ("zsh, in a folder of its fpath", "neuron-store completion zsh > ~/.zfunc/_neuron-store"),
    ),
    "man": (
        ("read it", "neuron-store man"),
        ("where `man neuron-store` finds it", "neuron-store man --install"),
        ("for a package of your own", "neuron-store man > neuron-store.1"),
    ),
}

"""A scripted stand-in for `neuronx-cc`, told by STANDIN_* in its environment what to do.

Its output is a function of the input's bytes and of the options that change code, so that a wrong hit shows. Every
real run appends a line to the file STANDIN_RUNS.
"""

import hashlib
import json
import os
import signal
import sys
import time

# (option with a separate value) -> whether it changes the output
VALUED = {
    "--framework": False,
    "--target": True,
    "--model-type": True,
    "--auto-cast": True,
    "--output": False,
    "-o": False,
    "--logfile": False,
    "--verbose": False,
    "--optlevel": True,
    "-lnc": True,
    "--lnc": True,
    "--tensorizer-options": True,
    "--io-config": False,
}


def setting(name, default=""):
    return os.environ.get("STANDIN_" + name, default)


def parse(arguments):
    options, rest = {}, []
    words = iter(arguments)
    for word in words:
        name, equals, value = word.partition("=")
        if name in VALUED:
            options[name] = value if equals else next(words, "")
        elif word.startswith("-") and word != "-":
            options[word] = ""
        else:
            rest.append(word)
    return options, rest


def record_run():
    if setting("RUNS"):
        entry = json.dumps(
            {
                "argv": sys.argv[1:],
                "cwd": os.getcwd(),
                "env": {k: v for k, v in os.environ.items() if not k.startswith("STANDIN_")},
                "stdin": sys.stdin.read() if setting("READ_STDIN") else None,
            }
        )
        descriptor = os.open(setting("RUNS"), os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        os.write(descriptor, (entry + "\n").encode())
        os.close(descriptor)


def neff(model, options):
    changing = sorted((n, v) for n, v in options.items() if VALUED.get(n, True))
    seed = hashlib.sha256(model + repr(changing).encode() + setting("SALT").encode()).digest()
    if setting("UNSTABLE"):
        seed = os.urandom(32)
    size = int(setting("SIZE", "2000"))
    if setting("COMPRESSIBLE"):
        return (seed * (size // len(seed) + 1))[:size]
    made = bytearray()
    while len(made) < size:
        seed = hashlib.sha256(seed).digest()
        made += seed
    return bytes(made[:size])


def main():
    arguments = sys.argv[1:]
    if "--version" in arguments or "-V" in arguments:
        stream = sys.stderr if setting("VERSION_ON_STDERR") else sys.stdout
        version = setting("VERSION", "2.14.227.0+2d4f85be")
        if version != "none":
            stream.write(f"NeuronX Compiler version {version}\n\nPython version 3.10.12\n")
        return 0
    record_run()
    if "compile" not in arguments:
        print("stand-in:", *arguments)
        return int(setting("EXIT", "0"))
    options, rest = parse(arguments)
    rest.remove("compile")
    output = options.get("--output") or options.get("-o") or "file.neff"
    for line in json.loads(setting("PRINT", "[]")):
        stream = sys.stdout if line[0] == "o" else sys.stderr
        stream.buffer.write(line[1].encode("latin-1"))
        stream.flush()
    if setting("FLOOD"):
        for _ in range(int(setting("FLOOD"))):
            sys.stdout.buffer.write(b"x" * 65535 + b"\n")
    sys.stdout.flush()
    if setting("STARTED"):
        open(setting("STARTED"), "a").close()
    if setting("WAIT_FOR"):
        while not os.path.exists(setting("WAIT_FOR")):
            time.sleep(0.01)
    time.sleep(float(setting("SLEEP", "0")))
    if setting("SPAWN"):
        if os.fork() == 0:
            time.sleep(float(setting("SPAWN")))
            os._exit(0)
    if setting("TOUCH_INPUT"):
        with open(rest[0], "r+b") as file:
            file.write(setting("TOUCH_INPUT").encode())
    if setting("SIGNAL"):
        signal.signal(getattr(signal, setting("SIGNAL")), signal.SIG_DFL) if setting("SIGNAL") != "SIGKILL" else None
        os.kill(os.getpid(), getattr(signal, setting("SIGNAL")))
    code = int(setting("EXIT", "0"))
    if setting("FAIL_ONCE") and not os.path.exists(setting("FAIL_ONCE")):
        open(setting("FAIL_ONCE"), "w").close()
        code = 70
    if code:
        sys.stderr.write("ERROR: the stand-in was told to fail\n")
        return code
    model = b"" if not rest or not os.path.isfile(rest[0]) else open(rest[0], "rb").read()
    if not setting("NO_OUTPUT"):
        with open(output, "wb") as file:
            made = neff(model, options)
            half = len(made) // 2
            file.write(made[:half])
            file.flush()
            time.sleep(float(setting("SLEEP_WRITING", "0")))
            file.write(made[half:])
    if setting("WRAPPED"):
        with open("wrapped_neff.hlo", "wb") as file:
            file.write(b"wrapped " + setting("WRAPPED").encode() + hashlib.sha256(model).digest())
    log = options.get("--logfile")
    if setting("LOG") and log:
        with open(log, setting("LOG_MODE", "w")) as file:
            file.write(setting("LOG"))
    print("Compiler status PASS")
    return 0


sys.exit(main())

# Completion of neuron-store for fish; `neuron-store completion fish` prints it.
function __neuron_store_complete
    set -l typed (commandline -opc)
    set -l current (commandline -ct)
    set -l program (string replace -r '^~(?=/)' $HOME -- $typed[1])
    set -l answer ($program complete-words fish $typed "$current" 2>/dev/null)
    switch "$answer[1]"
        case files
            __fish_complete_path "$current"
        case folders
            __fish_complete_directories "$current" ''
        case 'command *'
            set -l begins (math (string split ' ' -- $answer[1])[2] + 1)
            set -l words
            if test $begins -le (count $typed)
                set words (string escape -- $typed[$begins..-1])
            end
            complete -C (string join ' ' -- $words "$current")
        case values
            printf '%s\n' $answer[2..-1]
    end
end
complete -c neuron-store -f -a '(__neuron_store_complete)'

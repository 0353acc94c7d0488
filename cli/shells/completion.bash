# Completion of neuron-store for bash 4.4 or newer; `neuron-store completion bash` prints it.
_neuron_store_complete() {
    local program=${1/#\~/$HOME} paths=
    local -a answer
    mapfile -t answer < <("$program" complete-words bash "${COMP_LINE:0:COMP_POINT}" "$COMP_WORDBREAKS" 2>/dev/null)
    COMPREPLY=()
    case ${answer[0]-} in
        files) paths=-f ;;
        folders) paths=-d ;;
        command\ *)
            # Where bash has split words at = or : as well, its numbers are others.
            local begins=${answer[0]#command }
            local current=${begins#* }
            begins=${begins% *}
            if [[ $current == "$COMP_CWORD" ]] && declare -F _command_offset >/dev/null; then
                _command_offset "$begins"
            elif [[ $current == "$begins" && $2 != */* ]]; then
                mapfile -t COMPREPLY < <(compgen -c -- "$2" | sort -u)
            else
                paths=-f
            fi
            ;;
        prefixes)
            compopt -o nospace 2>/dev/null
            COMPREPLY=("${answer[@]:1}")
            ;;
        values) COMPREPLY=("${answer[@]:1}") ;;
    esac
    if [[ -n $paths ]]; then
        compopt -o filenames 2>/dev/null
        mapfile -t COMPREPLY < <(compgen "$paths" -- "$2")
    fi
    COMPREPLY=("${COMPREPLY[@]%%$'\t'*}")
}
complete -F _neuron_store_complete neuron-store

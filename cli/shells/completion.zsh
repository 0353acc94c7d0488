#compdef neuron-store
# Completion of neuron-store for zsh; `neuron-store completion zsh` prints it.
_neuron_store() {
    local -a answer offered
    local directive line value program=${(Q)words[1]}
    answer=("${(@f)$(${~program} complete-words zsh "${(@Q)words[1,CURRENT-1]}" "${(Q)PREFIX}" 2>/dev/null)}")
    directive=$answer[1]
    case $directive in
        files) _files ;;
        folders) _files -/ ;;
        command\ *)
            local begins=${${directive#command }% *}
            shift begins words
            (( CURRENT -= begins ))
            _normal
            ;;
        values|prefixes)
            for line in "${(@)answer[2,-1]}"; do
                value=${line%%$'\t'*}
                offered+=("${value//:/\\:}${${line[${#value}+1,-1]}/$'\t'/:}")
            done
            if [[ $directive == prefixes ]]; then
                _describe -t values value offered -S ''
            else
                _describe -t values value offered
            fi
            ;;
    esac
}
if [[ ${zsh_eval_context[-1]} == loadautofunc ]]; then
    _neuron_store "$@"
else
    (( $+functions[compdef] )) || { autoload -Uz compinit && compinit }
    compdef _neuron_store neuron-store
fi

# Completion of kctl for bash: what may follow is kctl's own answer, and where it has none, files.
_kctl() {
    local line word before=
    local -a words=()
    for word in "${COMP_WORDS[@]:1:COMP_CWORD}"; do
        if [[ $before == @ ]]; then # bash parts words at an @ here, and replaces it together with what is behind it
            words[${#words[@]}-1]=@$word
        else
            words+=("$word")
        fi
        before=$word
    done
    COMPREPLY=()
    while IFS= read -r line; do
        COMPREPLY+=("${line%%$'\t'*}")
    done < <(kctl __complete "${words[@]}" 2>/dev/null)
    if [[ ${#COMPREPLY[@]} -eq 1 && ${COMPREPLY[0]} == *= ]]; then
        compopt -o nospace
    fi
}
complete -o default -o nosort -F _kctl kctl

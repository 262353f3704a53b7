#compdef kctl
# Completion of kctl for zsh: what may follow is kctl's own answer, and where it has none, files.
_kctl() {
    local line value
    local -a plain open
    while IFS= read -r line; do
        value=${line%%$'\t'*}
        if [[ $value == *= ]]; then
            open+=("${value//:/\\:}:${line#*$'\t'}")
        else
            plain+=("${value//:/\\:}:${line#*$'\t'}")
        fi
    done < <(kctl __complete "${(@)words[2,CURRENT]}" 2>/dev/null)
    (( $#plain )) && _describe -V kctl plain
    (( $#open )) && _describe -V kctl open -S ''
    (( $#plain + $#open )) || _files
}
compdef _kctl kctl

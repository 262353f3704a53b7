# Completion of kctl for fish: what may follow is kctl's own answer, and where it has none, files.
function __kctl_find
    set -l words (commandline -opc) (commandline -ct)
    set -g __kctl_found (kctl __complete $words[2..-1] 2>/dev/null)
    test (count $__kctl_found) -gt 0
end
complete -c kctl -e
complete -c kctl -k -f -n __kctl_find -a '(string join \n -- $__kctl_found)'

# Sourced by build.sh and base_image.sh: what comes from Debian's packages, without a service of theirs ever starting.

# Installs packages that are not there yet; only such as bring no service.
install_packages() {
  local name missing=()
  for name in "$@"; do [ "$(dpkg-query -W -f '${db:Status-Status}' "$name" 2>/dev/null)" = installed ] || missing+=("$name"); done
  [ ${#missing[@]} -gt 0 ] || return 0
  echo "installing ${missing[*]}" >&2
  refresh_lists
  DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends "${missing[@]}" >"$CACHE/packages.log" 2>&1 ||
    { tail -n 5 "$CACHE/packages.log" >&2; fail "apt-get cannot install ${missing[*]}; the whole log is $CACHE/packages.log"; }
}

# Unpacks packages into folder $1. Installing these would start services that our own processes collide with.
unpack_packages() {
  local folder=$1 work package
  shift
  work=$(mktemp -d)
  refresh_lists
  (cd "$work" && apt-get download -q -o APT::Sandbox::User=root "$@") >"$CACHE/packages.log" 2>&1 ||
    { tail -n 5 "$CACHE/packages.log" >&2; fail "apt-get cannot download $*; the whole log is $CACHE/packages.log"; }
  for package in "$work"/*.deb; do dpkg-deb -x "$package" "$folder"; done
  rm -rf "$work"
}

# Once a run: a list of last month names packages that are gone.
refresh_lists() {
  [ -z "${LISTS_FRESH:-}" ] || return 0
  apt-get update -q >"$CACHE/packages.log" 2>&1 || { tail -n 5 "$CACHE/packages.log" >&2; fail "apt-get update failed; the whole log is $CACHE/packages.log"; }
  LISTS_FRESH=yes
}

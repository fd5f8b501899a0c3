# shellcheck shell=bash
# Sourced by scripts that need more than Python.

# packages TARGET PACKAGE...: install what is missing of them (Debian), or say what to type.
packages() {
    local target=$1 package missing=()
    shift
    for package; do
        dpkg-query --show --showformat '${db:Status-Abbrev}' "$package" 2>/dev/null | grep -q '^ii' || missing+=("$package")
    done
    if [ ${#missing[@]} -eq 0 ]; then
        return
    fi
    if [ "$(id -u)" != 0 ]; then
        echo "$target needs packages of Debian; as root: apt-get update && apt-get install ${missing[*]}" >&2
        exit 2
    fi
    echo "$target needs ${missing[*]}: installing" >&2
    apt-get update -qq
    DEBIAN_FRONTEND=noninteractive apt-get install -qq --yes --no-install-recommends "${missing[@]}" >/dev/null
}

# nodejs TARGET: Node.js and npm, from wherever they came; else Debian's.
nodejs() {
    local missing=()
    command -v node >/dev/null || missing+=(nodejs)
    command -v npm >/dev/null || missing+=(npm)
    if [ ${#missing[@]} -gt 0 ]; then
        packages "$1" "${missing[@]}"
    fi
}

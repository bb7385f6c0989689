#!/bin/bash
# What the tests need of the machine. Debian's packages that are missing are installed, as root or with sudo, after saying
# so; where that may not be, and for Rust and Go, one sentence names all that is missing. Nothing is asked of apt, and
# nothing of sudo, where nothing is missing. A server among the packages is not started: the tests start their own.
set -euo pipefail

missing=()   # packages
elsewhere=() # what no package of Debian's is new enough for

# A command or a file, and Debian's packages for it.
find_packages() {
    local -a words
    missing=()
    while read -ra words; do
        if [[ ${words[0]} == /* && -e ${words[0]} ]]; then continue; fi
        type -P "${words[0]}" >/dev/null || missing+=("${words[@]:1}")
    done <<'COMMANDS'
cc gcc
c++ g++
make make
git git
kill procps
sha256sum coreutils
pg_ctlcluster postgresql
swaks swaks libnet-ssleay-perl
curl curl
msmtp msmtp
python3 python3
pip3 python3-pip
ruby ruby
php php-cli
/usr/share/php/libphp-phpmailer/autoload.php libphp-phpmailer
node nodejs
npm npm
postconf postfix libsasl2-modules
saslpasswd2 sasl2-bin
COMMANDS
}

listed() {
    local text
    printf -v text '%s, ' "$@"
    echo "${text%, }"
}

# Ends with the sentence. Its argument says why nothing was installed.
give_up() {
    local wanted=()
    if ((${#elsewhere[@]} > 0)); then wanted+=("$(listed "${elsewhere[@]}")"); fi
    if ((${#missing[@]} > 0)); then wanted+=("Debian's packages $(listed "${missing[@]}"), or what your system calls them"); fi
    local text="${wanted[0]}"
    if ((${#wanted[@]} > 1)); then text="$text, and ${wanted[1]}"; fi
    echo "the tests need what is not here: $text${1:+ ($1)}" >&2
    exit 1
}

type -P cargo >/dev/null || elsewhere+=("cargo (Rust, from https://rustup.rs)")
type -P go >/dev/null || elsewhere+=("go (Go 1.26 or newer, from https://go.dev/dl)")
find_packages
if ((${#elsewhere[@]} > 0)); then give_up ""; fi
if ((${#missing[@]} == 0)); then exit 0; fi

if ! type -P apt-get >/dev/null; then give_up "there is no apt-get to install them with"; fi
root=()
if ((EUID != 0)); then
    # A password can be typed at a terminal only.
    if ! type -P sudo >/dev/null || ! { [[ -t 0 ]] || sudo -n true 2>/dev/null; }; then
        give_up "only root may install them, and sudo gives no such right here"
    fi
    root=(sudo)
fi
echo "the tests need packages of Debian's that are not here; installing them${root[0]:+ with sudo}: $(listed "${missing[@]}")"
"${root[@]}" apt-get update -qq
"${root[@]}" env DEBIAN_FRONTEND=noninteractive RUNLEVEL=1 apt-get install -y -qq --no-install-recommends "${missing[@]}"
find_packages
if ((${#missing[@]} > 0)); then give_up "apt-get has installed them, and their commands are still not on the PATH"; fi

#!/bin/bash
# Puts six public-domain novels by Jane Austen into the user's cache folder: the texts that quality
# is measured on. Prints nothing when they are there already. Nothing is installed, root not needed.
#
#   scripts/get_texts.sh                 take them from the Debian package r-cran-janeaustenr (1.6 MB)
#   scripts/get_texts.sh --deb FILE      take them from a package that was downloaded before
#   scripts/get_texts.sh --path          print the folder, get nothing
#
# The folder is ${PHASOR_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/phasor}/texts. Every file is checked
# against the sums below; they appear under their names only when all of them are right.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)

package=r-cran-janeaustenr
sums="\
7c67b5985c6d0de1efaeb5d342d52cb82c38083c40e2295129e30e87ee690ebe  emma.txt
98bc90519cdf4ef663ad7de2734bb529435ef24f7abbde6bb1a50898871dafe9  mansfield_park.txt
51f91bbe0517db8e65cff009b097ce0a1836124c4e0532ac19e6c0cad982abed  northanger_abbey.txt
8061549557aebd2fd6e353d18d9197cb707029112bd52d4d8b174583a925848a  persuasion.txt
dfc684d4f857fa938268f9ab9c5567b64bd0691251eca959644adeabe6287a4d  pride_and_prejudice.txt
105e1651fe93bed7130078578efd31e0c557d68667ba672ddc876f735b30fe09  sense_and_sensibility.txt"

folder=${PHASOR_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/phasor}/texts
deb=
case "${1:-}" in
  "") ;;
  --path) echo "$folder"; exit 0 ;;
  --deb) deb=$(realpath "${2:?get_texts: --deb needs a file}") ;;
  *)
    echo "get_texts: expected --path or --deb FILE, found '$1'" >&2
    exit 2
    ;;
esac

# Four megabytes: the sums themselves are the quickest proof that nothing changed.
are_good() { (cd "$1" 2> /dev/null && sha256sum --check --status --strict <<< "$sums" 2> /dev/null); }
if [[ -z "$deb" ]] && are_good "$folder"; then exit 0; fi

mkdir -p "$folder"
work=$(mktemp -d "$folder/.get_texts.XXXXXX")
trap 'rm -rf "$work"' EXIT
die() {
  echo "get_texts: $*" >&2
  exit 1
}

download() {
  local options=(-q)
  # apt's own unprivileged user may not enter this folder.
  [[ $EUID -eq 0 ]] && options+=(-o APT::Sandbox::User=root)
  (cd "$work" && apt-get "${options[@]}" download "$package") > "$work/log" 2>&1 < /dev/null
}
if [[ -z "$deb" ]]; then
  echo "get_texts: downloading the Debian package $package (1.6 MB)"
  if ! download; then
    if [[ $EUID -eq 0 ]]; then
      apt-get -q update > "$work/log" 2>&1 < /dev/null || true
    fi
    if ! download; then
      tail -n 3 "$work/log" >&2
      die "apt-get could not download $package; with a package from elsewhere:" \
        "scripts/get_texts.sh --deb FILE"
    fi
  fi
  deb=$(find "$work" -name '*.deb' -print -quit)
fi
dpkg-deb -x "$deb" "$work/package" 2> "$work/log" ||
  die "$deb: expected a Debian package, found: $(head -n 1 "$work/log")"
data=$work/package/usr/lib/R/site-library/janeaustenr/data/Rdata.rdb
[[ -f $data ]] || die "$deb: expected ${data#"$work/package"} inside, found no such file"
mkdir "$work/texts"
python3 "$here/unpack_texts.py" "$data" "$work/texts"
if ! are_good "$work/texts"; then
  wrong=$(cd "$work/texts" && sha256sum --check --strict <<< "$sums" 2> /dev/null |
    grep -v ': OK$' | head -n 1 || true)
  die "$deb: expected the novels with the sums in scripts/get_texts.sh, found $wrong"
fi
while read -r _ name; do mv "$work/texts/$name" "$folder/$name"; done <<< "$sums"
echo "get_texts: $folder"

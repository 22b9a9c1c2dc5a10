# Downloads each argument, ORG/NAME@REVISION of the Hugging Face hub, into a folder of that name below
# $MODELS, unless it is there. The files of such a folder never change: it gets its name when it is whole,
# so that pods of two releases read two revisions, and going back finds the older one as it was.
set -eu
aside=$MODELS/.downloading
if ! mkdir -p "$aside" || ! [ -w "$aside" ]; then
  echo "$MODELS: user $(id -u) cannot write here: let the volume belong to that user or group" >&2
  exit 1
fi

folder_of() {
  echo "$MODELS/${1%%@*}@$(echo "${1#*@}" | tr / +)"
}

for source in "$@"; do
  folder=$(folder_of "$source")
  # What a pod began that was ended is continued, and of pods that start together one downloads: two would
  # remove each other's files. On a volume that has no locks they are taken for granted.
  part=$aside/$(echo "$source" | tr / +)
  exec 9>"$part.lock"
  locked=0
  flock -w "$SECONDS_AT_MOST" 9 || locked=$?
  if [ "$locked" = 1 ]; then
    echo "$source: another pod has been downloading it for $SECONDS_AT_MOST seconds" >&2
    exit 1
  fi
  if [ -d "$folder" ]; then
    echo "$source: there already"
  else
    # What hf knows of the revision lies beside the files: it takes any files for all of them otherwise,
    # where the hub does not answer.
    HF_HUB_CACHE=$part/.cache/hub timeout "$SECONDS_AT_MOST" \
      hf download "${source%%@*}" --revision "${source#*@}" --local-dir "$part" \
      --include '*.json' --include '*.jinja' --include '*.safetensors' --exclude '*/*'
    if ! ls "$part"/*.safetensors >/dev/null 2>&1; then
      echo "$source: has no safetensors, or could not be downloaded whole" >&2
      exit 1
    fi
    sync -f "$part" || true
    mkdir -p "${folder%/*}"
    mv -T "$part" "$folder"
  fi
  rm -rf "$part" "$folder/.cache" || true
  touch "$folder" 2>/dev/null || true
  exec 9>&-
done

# Of each repository the revisions that pods started with last are kept, and whatever is younger than a week.
week=-mtime\ +6
find "$aside" -mindepth 1 -maxdepth 1 $week -exec rm -rf {} +
for source in "$@"; do
  ls -1dt "$MODELS/${source%%@*}"@* | tail -n "+$((KEEP + 1))" | while read -r old; do
    for needed in "$@"; do
      [ "$old" != "$(folder_of "$needed")" ] || continue 2
    done
    if [ -n "$(find "$old" -maxdepth 0 $week)" ]; then
      echo "$old: not used for a week, removed"
      mv -T "$old" "$aside/removed-$$" && rm -rf "$aside/removed-$$"
    fi
  done
done

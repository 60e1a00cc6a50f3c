# Reads apt sources (deb822 *.sources and one-line *.list files) and prints one deb822 stanza for suite `suite` with the
# URI and the Signed-By of the machine's Debian archive: of the entry for its own release `codename`, or else of the first
# enabled entry with component main.

function offer(uri, suites, components, key,    rank) {
  if (uri !~ /^(https?|ftp|file|copy|mirror|tor)[a-z+]*:/ || (" " components " ") !~ / main /) return
  rank = (" " suites " ") ~ (" " codename " ") ? 2 : suites ~ /-security/ ? 0 : 1
  if (rank > best) { best = rank; best_uri = uri; best_key = key }
}

function end_stanza() {
  if (field["types"] ~ /(^| )deb( |$)/ && field["enabled"] !~ /^(no|false|off|0)$/)
    offer(field["uris"], field["suites"], field["components"], field["signed-by"])
  split("", field)
}

BEGIN { best = 0 }
FNR == 1 { end_stanza() }
/^[ \t]*#/ { next }

FILENAME ~ /\.sources$/ {
  if ($0 ~ /^[ \t]*$/) { end_stanza(); next }
  if ($0 ~ /^[ \t]/) { field[name] = field[name] "\n" $0; next } # e.g. a key in the file itself
  name = tolower(substr($0, 1, index($0, ":") - 1))
  value = substr($0, index($0, ":") + 1)
  gsub(/^[ \t]+|[ \t]+$/, "", value)
  field[name] = value
  next
}

$1 == "deb" { # deb [option=value ...] URI suite component...
  line = $0
  key = ""
  if (match(line, /\[[^]]*\]/)) {
    options = substr(line, RSTART + 1, RLENGTH - 2)
    line = substr(line, 1, RSTART - 1) substr(line, RSTART + RLENGTH)
    count = split(options, option, /[ \t]+/)
    for (i = 1; i <= count; i++)
      if (option[i] ~ /^signed-by=/) { key = substr(option[i], 11); gsub(/,/, " ", key) }
  }
  count = split(line, word, /[ \t]+/)
  components = ""
  for (i = 4; i <= count; i++) components = components " " word[i]
  offer(word[2], word[3], components, key)
}

END {
  end_stanza()
  if (best_uri == "") exit
  printf "Types: deb\nURIs: %s\nSuites: %s\nComponents: main\n", best_uri, suite
  if (best_key != "") printf "Signed-By: %s\n", best_key
}

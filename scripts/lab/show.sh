# shellcheck shell=bash
# The transcript of the demo: numbered steps, each command as one would type it, its output,
# and what was expected of it. Sourced by scripts/demo.

if [ -t 1 ]; then
    BOLD=$'\e[1m' GREEN=$'\e[32m' RED=$'\e[31m' DIM=$'\e[2m' PLAIN=$'\e[0m'
else
    BOLD='' GREEN='' RED='' DIM='' PLAIN=''
fi

step() {
    STEP=$((STEP + 1))
    printf '\n%s%2d. %s%s\n' "$BOLD" "$STEP" "$1" "$PLAIN"
}

note() {
    printf '      %s%s%s\n' "$DIM" "$1" "$PLAIN"
}

# A line of a test: the words after the sentence are a command that must succeed.
check() {
    local sentence=$1
    shift
    if "$@"; then
        PASSED=$((PASSED + 1))
        printf '      %sok%s  %s\n' "$GREEN" "$PLAIN" "$sentence"
    else
        FAILED=$((FAILED + 1))
        printf '      %sFAILED%s  %s\n' "$RED" "$PLAIN" "$sentence"
    fi
}

# Runs a command of a place: what to print, then the command. Leaves OUT and CODE.
show() {
    local place=$1 typed=$2
    shift 2
    printf '    %s# %s\n' "$place" "$typed"
    CODE=0
    OUT=$("$@" 2>&1) || CODE=$?
    [ -z "$OUT" ] || printf '%s\n' "$OUT" | sed 's/^/      /'
}

# One HTTP request.
request() {
    show "$1" "curl http://$2/" at "$1" "${CURL[@]}" "http://$2/"
}

# Sixty requests, and a bar for each server that answered: each of the three frontends must.
spread() {
    local place=$1 protocol=$2 address=$3 port=$4 count=60 name n
    if [ "$protocol" = tcp ]; then
        # The servers end a connection after one answer: each request is a new one.
        printf "    %s# curl 'http://%s/?[1-%d]'\n" "$place" "$address:$port" "$count"
        OUT=$(at "$place" "${CURL[@]}" --fail-early \
            "http://$address:$port/?[1-$count]" 2>&1) || true
    else
        printf '    %s# ask-udp.py %s %d %d\n' "$place" "$address" "$port" "$count"
        OUT=$(at "$place" "${PYTHON[@]}" "$LAB_DIR/ask-udp.py" "$address" "$port" "$count" 2>&1) || true
    fi
    local answers=0 fewest=$count
    for name in frontend-1 frontend-2 frontend-3; do
        n=$(grep -c "^$name " <<<"$OUT" || true)
        answers=$((answers + n))
        [ "$n" -ge "$fewest" ] || fewest=$n
        printf '      %-11s %3d %s\n' "$name" "$n" "$(bar "$n")"
    done
    grep -v '^frontend-[123] ' <<<"$OUT" | sort | uniq -c | head -n 3 || true
    check "$place over $protocol: all $count answered, by all three pods" \
        [ "$answers" -eq "$count" -a "$fewest" -ge 4 ]
}

bar() {
    [ "$1" -eq 0 ] || printf '█%.0s' $(seq "$1")
}

# A request that must be refused at once. A refusal that only the second SYN gets takes a
# second or more each time; on a slow machine any one may, so the quickest of a few counts.
# The client takes the time itself: its start is not what is measured.
refused() {
    local place=$1 protocol=$2 address=$3 port=$4 tries=5 typed command took=
    if [ "$protocol" = tcp ]; then
        typed="curl -w '%{time_total} s' http://$address:$port/"
        command=("${CURL[@]}" -w '%{time_total} s\n' "http://$address:$port/")
    else
        typed="ask-udp.py $address $port"
        command=("${PYTHON[@]}" "$LAB_DIR/ask-udp.py" "$address" "$port")
    fi
    printf '    %s# %s\n' "$place" "$typed"
    while [ "$tries" -gt 0 ]; do
        tries=$((tries - 1))
        CODE=0
        OUT=$(at "$place" "${command[@]}" 2>&1) || CODE=$?
        took=$(sed -n 's/^\(.* \)\{0,1\}\([0-9.]*\) s$/\2/p' <<<"$OUT")
        # Anything but a late refusal is not asked again.
        if [ "$CODE" -ne 7 ] || [ "${took%%.*}" = 0 ]; then
            break
        fi
    done
    printf '%s\n' "$OUT" | sed 's/^/      /'
    check "refused, within a second" [ "$CODE" -eq 7 -a "${took%%.*}" = 0 ]
}

drawing() {
    cat <<'TXT'

  frontend-1 visitor-1       frontend-2 frontend-3 visitor-2           client
   .2 \       / .3            .2 \      .3 |      / .4               203.0.113.9
  docker0 172.17.0.1/24          docker0 172.17.1.1/24                   |
       node1                         node2                            router
         +---- 192.168.50.11 ----------+---- 192.168.50.12 ----- .1 -----+

  frontend-1 and frontend-2: the ReplicationController's replicas, hostPort 80
  frontend-3: one more pod with the same label, made by this script, without a host port
  visitor-1, visitor-2: pods that only ask
TXT
}

how_to_enter() {
    local place
    printf '\nThe lab %s is still up. To enter a place of it:\n' "$LAB"
    for place in $(lab_places); do
        printf '    ip netns exec %s-%s bash\n' "$LAB" "$place"
    done
    printf 'Its manifests are in %s\nTo remove it:\n    scripts/demo --remove %s\n' "$STATE" "$LAB"
}

# The last line, and the exit code.
verdict() {
    if [ "$FAILED" -eq 0 ]; then
        printf '\n%sdemo: all %d checks passed%s\n' "$GREEN" "$PASSED" "$PLAIN"
    else
        printf '\n%sdemo: %d of %d checks failed%s\n' "$RED" "$FAILED" "$((PASSED + FAILED))" "$PLAIN"
        return 1
    fi
}

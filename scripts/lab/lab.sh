# shellcheck shell=bash
# The lab of the demo: two nodes with a docker0 bridge each, pods, a physical network, a
# router and an outside client, every one of them a network namespace called $LAB-NAME.
#
#   frontend-1 visitor-1           frontend-2 frontend-3 visitor-2            client
#    .2 \       / .3                .2 \      .3 |      / .4                203.0.113.9
#   docker0 172.17.0.1/24              docker0 172.17.1.1/24                    |
#        node1                             node2                             router
#          +---- 192.168.50.11 --------------+---- 192.168.50.12 ------ .1 -----+
#
# Sourced by scripts/demo. Links are made between namespaces: the host gets none of them.

# NAME:NODE:HOST-NUMBER of each pod. frontend-1 and frontend-2 are the replicas of
# frontend.yaml and claim its host port; frontend-3 is one more pod with the same label and
# no host port; visitors only ask.
LAB_PODS="frontend-1:1:2 visitor-1:1:3 frontend-2:2:2 frontend-3:2:3 visitor-2:2:4"
LAB_SERVERS=()

# Seconds that a server may take to start. It takes milliseconds, but the machine may be slow.
LAB_PATIENCE=60

# Runs a command in a place of the lab.
at() {
    local place=$1
    shift
    ip netns exec "$LAB-$place" "$@"
}

# Prints a network setting of a place, nothing if the kernel has no such; or sets it.
lab_sysctl() {
    local file=/proc/sys/net/$2
    if [ $# -gt 2 ]; then
        # shellcheck disable=SC2016
        at "$1" sh -c 'echo "$2" >"$1"' sysctl "$file" "$3"
    else
        at "$1" cat "$file" 2>/dev/null || true
    fi
}

lab_places() {
    local pod
    echo router client node1 node2
    for pod in $LAB_PODS; do
        echo "${pod%%:*}"
    done
}

lab_pod_ip() {
    local pod name node host
    for pod in $LAB_PODS; do
        IFS=: read -r name node host <<<"$pod"
        [ "$name" != "$1" ] || echo "172.17.$((node - 1)).$host"
    done
}

# Makes all of it; fails at the first thing that cannot be made.
lab_up() {
    local place
    for place in $(lab_places); do
        ip netns add "$LAB-$place"
        ip -n "$LAB-$place" link set lo up
    done
    lab_outside
    lab_node 1
    lab_node 2
    for place in client frontend-1 frontend-2 frontend-3; do
        lab_serve "$place"
    done
}

# The router, which is also the switch of the physical network, and the client beyond it.
lab_outside() {
    ip -n "$LAB-router" -batch - <<TXT
link add phys0 type bridge
addr add 192.168.50.1/24 dev phys0
link set phys0 up
link add name outside type veth peer name eth0 netns $LAB-client
addr add 203.0.113.1/24 dev outside
link set outside up
TXT
    ip -n "$LAB-client" -batch - <<TXT
addr add 203.0.113.9/24 dev eth0
link set eth0 up
route add default via 203.0.113.1
TXT
    lab_sysctl router ipv4/ip_forward 1
}

# A node as its installer leaves it: no forwarding, bridged packets hidden from the IP
# hooks. Both are svcnat's to set.
lab_node() {
    local number=$1 net=172.17.$(($1 - 1)) pod name node host
    ip -n "$LAB-router" -batch - <<TXT
link add name node$number type veth peer name eth0 netns $LAB-node$number
link set node$number master phys0
link set node$number up
TXT
    ip -n "$LAB-node$number" -batch - <<TXT
addr add 192.168.50.1$number/24 dev eth0
link set eth0 up
route add default via 192.168.50.1
link add docker0 type bridge
addr add $net.1/24 dev docker0
link set docker0 up
TXT
    lab_sysctl "node$number" ipv4/ip_forward 0
    # Only there while the module is.
    if [ -n "$(lab_sysctl "node$number" bridge/bridge-nf-call-iptables)" ]; then
        lab_sysctl "node$number" bridge/bridge-nf-call-iptables 0
    fi
    for pod in $LAB_PODS; do
        IFS=: read -r name node host <<<"$pod"
        [ "$node" != "$number" ] || lab_pod "$name" "$node" "$net" "$host"
    done
}

# What a network plugin does: a link to the bridge, with hairpin, and an address.
lab_pod() {
    local name=$1 node=$2 net=$3 host=$4
    ip -n "$LAB-node$node" -batch - <<TXT
link add name veth$host type veth peer name eth0 netns $LAB-$name
link set veth$host master docker0
link set veth$host type bridge_slave hairpin on
link set veth$host up
TXT
    ip -n "$LAB-$name" -batch - <<TXT
addr add $net.$host/24 dev eth0
link set eth0 up
route add default via $net.1
TXT
}

# Starts the server of a place and waits until it answers.
lab_serve() {
    local place=$1 pid error deadline=$((SECONDS + LAB_PATIENCE))
    at "$place" "${PYTHON[@]}" "$LAB_DIR/responder.py" "$place" 80 </dev/null >/dev/null 2>"$STATE/$place.log" &
    pid=$!
    LAB_SERVERS+=("$pid")
    until error=$(at "$place" "${CURL[@]}" -o /dev/null http://127.0.0.1/ 2>&1); do
        if ! kill -0 "$pid" 2>/dev/null; then
            echo "demo: the server of $place has ended (${PYTHON[*]} $LAB_DIR/responder.py):" >&2
            cat "$STATE/$place.log" >&2
            return 1
        fi
        if [ "$SECONDS" -ge "$deadline" ]; then
            echo "demo: the server of $place does not answer after $LAB_PATIENCE s: $error" >&2
            cat "$STATE/$place.log" >&2
            return 1
        fi
        sleep 0.05
    done
}

# Pod objects as the API server would have them, for the pods above.
lab_pod_manifests() {
    local pod name node host
    for pod in $LAB_PODS; do
        IFS=: read -r name node host <<<"$pod"
        cat <<TXT
---
apiVersion: v1
kind: Pod
metadata:
  name: $name
  labels:
    name: ${name%-*}
spec:
  nodeName: node$node
  containers:
    - name: php-redis
      ports:
        - containerPort: 80
TXT
        case $name in frontend-1 | frontend-2) echo "          hostPort: 80" ;; esac
        cat <<TXT
status:
  phase: Running
  podIP: 172.17.$((node - 1)).$host
  conditions:
    - type: Ready
      status: "True"
TXT
    done
}

# Takes down what is there of it; safe to call at any time, and twice.
lab_down() {
    local place pid
    for pid in "${LAB_SERVERS[@]}"; do
        kill "$pid" 2>/dev/null || true
        wait "$pid" 2>/dev/null || true
    done
    for place in $(lab_places); do
        [ -e "/run/netns/$LAB-$place" ] || continue
        # Servers of a lab that an earlier run left up, and whoever was asking just now.
        for pid in $(ip netns pids "$LAB-$place"); do
            kill "$pid" 2>/dev/null || true
        done
        ip netns del "$LAB-$place" || true
    done
    LAB_SERVERS=()
}

# What `ufw enable` loads with its default policies (incoming: deny, outgoing: allow, routed: deny),
# logging low, and `ufw limit 22/tcp; ufw allow 8080`, of which the chains for logging are in short.
# $1: iptables-nft or iptables-legacy.
for program in "$1" "ip6${1#ip}"; do
    case $program in
        ip6*)
            ufw=ufw6 icmp="-p ipv6-icmp -m icmp6 --icmpv6-type echo-request" ports=icmp6-port-unreachable
            dhcp="-p udp -m udp -s fe80::/10 --sport 547 -d fe80::/10 --dport 546"
            mdns="-d ff02::fb -p udp -m udp --dport 5353" mask=ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff
            first="-A ufw6-before-input -m rt --rt-type 0 -j DROP
-A ufw6-before-forward -m rt --rt-type 0 -j DROP
-A ufw6-before-output -m rt --rt-type 0 -j DROP
-A ufw6-before-input -p ipv6-icmp -m icmp6 --icmpv6-type neighbour-solicitation -m hl --hl-eq 255 -j ACCEPT
-A ufw6-before-input -p ipv6-icmp -m icmp6 --icmpv6-type neighbour-advertisement -m hl --hl-eq 255 -j ACCEPT"
            not_local= broadcast=
            ;;
        *)
            ufw=ufw icmp="-p icmp -m icmp --icmp-type echo-request" ports=icmp-port-unreachable
            dhcp="-p udp -m udp --sport 67 --dport 68"
            mdns="-d 224.0.0.251 -p udp -m udp --dport 5353" mask=255.255.255.255 first=
            not_local="-A ufw-before-input -j ufw-not-local
-A ufw-not-local -m addrtype --dst-type LOCAL -j RETURN
-A ufw-not-local -m addrtype --dst-type MULTICAST -j RETURN
-A ufw-not-local -m addrtype --dst-type BROADCAST -j RETURN
-A ufw-not-local -m limit --limit 3/min --limit-burst 10 -j ufw-logging-deny
-A ufw-not-local -j DROP"
            broadcast="-A ufw-after-input -m addrtype --dst-type BROADCAST -j ufw-skip-to-policy-input"
            ;;
    esac
    "$program-restore" <<TXT
*filter
:INPUT DROP [0:0]
:FORWARD DROP [0:0]
:OUTPUT ACCEPT [0:0]
:$ufw-before-logging-input - [0:0]
:$ufw-before-logging-forward - [0:0]
:$ufw-before-input - [0:0]
:$ufw-before-output - [0:0]
:$ufw-before-forward - [0:0]
:$ufw-after-input - [0:0]
:$ufw-after-forward - [0:0]
:$ufw-after-logging-input - [0:0]
:$ufw-after-logging-forward - [0:0]
:$ufw-reject-input - [0:0]
:$ufw-reject-forward - [0:0]
:$ufw-track-input - [0:0]
:$ufw-track-output - [0:0]
:$ufw-track-forward - [0:0]
:$ufw-skip-to-policy-input - [0:0]
:$ufw-skip-to-policy-forward - [0:0]
:$ufw-logging-deny - [0:0]
:$ufw-not-local - [0:0]
:$ufw-user-input - [0:0]
:$ufw-user-output - [0:0]
:$ufw-user-forward - [0:0]
:$ufw-user-limit - [0:0]
:$ufw-user-limit-accept - [0:0]
-A INPUT -j $ufw-before-logging-input
-A INPUT -j $ufw-before-input
-A INPUT -j $ufw-after-input
-A INPUT -j $ufw-after-logging-input
-A INPUT -j $ufw-reject-input
-A INPUT -j $ufw-track-input
-A FORWARD -j $ufw-before-logging-forward
-A FORWARD -j $ufw-before-forward
-A FORWARD -j $ufw-after-forward
-A FORWARD -j $ufw-after-logging-forward
-A FORWARD -j $ufw-reject-forward
-A FORWARD -j $ufw-track-forward
-A OUTPUT -j $ufw-before-output
-A OUTPUT -j $ufw-track-output
$first
-A $ufw-before-input -i lo -j ACCEPT
-A $ufw-before-output -o lo -j ACCEPT
-A $ufw-before-input -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
-A $ufw-before-output -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
-A $ufw-before-forward -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
-A $ufw-before-input -m conntrack --ctstate INVALID -j $ufw-logging-deny
-A $ufw-before-input -m conntrack --ctstate INVALID -j DROP
-A $ufw-before-input $icmp -j ACCEPT
-A $ufw-before-forward $icmp -j ACCEPT
-A $ufw-before-input $dhcp -j ACCEPT
$not_local
-A $ufw-before-input $mdns -j ACCEPT
-A $ufw-before-input -j $ufw-user-input
-A $ufw-before-output -j $ufw-user-output
-A $ufw-before-forward -j $ufw-user-forward
-A $ufw-user-input -p tcp -m tcp --dport 22 -m conntrack --ctstate NEW -m recent --set --name DEFAULT --mask $mask --rsource
-A $ufw-user-input -p tcp -m tcp --dport 22 -m conntrack --ctstate NEW -m recent --update --seconds 30 --hitcount 6 --name DEFAULT --mask $mask --rsource -j $ufw-user-limit
-A $ufw-user-input -p tcp -m tcp --dport 22 -j $ufw-user-limit-accept
-A $ufw-user-input -p tcp -m tcp --dport 8080 -j ACCEPT
-A $ufw-user-input -p udp -m udp --dport 8080 -j ACCEPT
-A $ufw-user-limit -m limit --limit 3/minute -j LOG --log-prefix "[UFW LIMIT BLOCK] "
-A $ufw-user-limit -j REJECT --reject-with $ports
-A $ufw-user-limit-accept -j ACCEPT
-A $ufw-after-input -p udp -m udp --dport 137 -j $ufw-skip-to-policy-input
-A $ufw-after-input -p udp -m udp --dport 68 -j $ufw-skip-to-policy-input
$broadcast
-A $ufw-skip-to-policy-input -j DROP
-A $ufw-skip-to-policy-forward -j DROP
-A $ufw-after-logging-input -m limit --limit 3/min --limit-burst 10 -j LOG --log-prefix "[UFW BLOCK] "
-A $ufw-after-logging-forward -m limit --limit 3/min --limit-burst 10 -j LOG --log-prefix "[UFW BLOCK] "
-A $ufw-logging-deny -m conntrack --ctstate INVALID -m limit --limit 3/min --limit-burst 10 -j RETURN
-A $ufw-logging-deny -m limit --limit 3/min --limit-burst 10 -j LOG --log-prefix "[UFW BLOCK] "
-A $ufw-track-output -p tcp -m conntrack --ctstate NEW -j ACCEPT
-A $ufw-track-output -p udp -m conntrack --ctstate NEW -j ACCEPT
COMMIT
TXT
done

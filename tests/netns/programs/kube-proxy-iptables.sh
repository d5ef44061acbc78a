# What kube-proxy has in iptables mode for two Services: one with two endpoints and ClientIP
# affinity, which svcnat has as well, and one that svcnat does not know and that has a node port;
# and a third without endpoints. $1: iptables-nft or iptables-legacy.
"$1-restore" <<TXT
*mangle
:KUBE-IPTABLES-HINT - [0:0]
:KUBE-KUBELET-CANARY - [0:0]
:KUBE-PROXY-CANARY - [0:0]
COMMIT
*filter
:INPUT ACCEPT [0:0]
:FORWARD ACCEPT [0:0]
:OUTPUT ACCEPT [0:0]
:KUBE-EXTERNAL-SERVICES - [0:0]
:KUBE-FIREWALL - [0:0]
:KUBE-FORWARD - [0:0]
:KUBE-NODEPORTS - [0:0]
:KUBE-PROXY-CANARY - [0:0]
:KUBE-PROXY-FIREWALL - [0:0]
:KUBE-SERVICES - [0:0]
-A INPUT -m conntrack --ctstate NEW -m comment --comment "kubernetes load balancer firewall" -j KUBE-PROXY-FIREWALL
-A INPUT -m comment --comment "kubernetes health check service ports" -j KUBE-NODEPORTS
-A INPUT -m conntrack --ctstate NEW -m comment --comment "kubernetes externally-visible service portals" -j KUBE-EXTERNAL-SERVICES
-A INPUT -j KUBE-FIREWALL
-A FORWARD -m conntrack --ctstate NEW -m comment --comment "kubernetes load balancer firewall" -j KUBE-PROXY-FIREWALL
-A FORWARD -m comment --comment "kubernetes forwarding rules" -j KUBE-FORWARD
-A FORWARD -m conntrack --ctstate NEW -m comment --comment "kubernetes service portals" -j KUBE-SERVICES
-A FORWARD -m conntrack --ctstate NEW -m comment --comment "kubernetes externally-visible service portals" -j KUBE-EXTERNAL-SERVICES
-A OUTPUT -m conntrack --ctstate NEW -m comment --comment "kubernetes load balancer firewall" -j KUBE-PROXY-FIREWALL
-A OUTPUT -m conntrack --ctstate NEW -m comment --comment "kubernetes service portals" -j KUBE-SERVICES
-A OUTPUT -j KUBE-FIREWALL
-A KUBE-EXTERNAL-SERVICES -p tcp -m comment --comment "default/nobody has no endpoints" -m addrtype --dst-type LOCAL -m tcp --dport 30099 -j REJECT --reject-with icmp-port-unreachable
-A KUBE-FIREWALL ! -s 127.0.0.0/8 -d 127.0.0.0/8 -m comment --comment "block incoming localnet connections" -m conntrack ! --ctstate RELATED,ESTABLISHED,DNAT -j DROP
-A KUBE-FORWARD -m conntrack --ctstate INVALID -j DROP
-A KUBE-FORWARD -m comment --comment "kubernetes forwarding rules" -m mark --mark 0x4000/0x4000 -j ACCEPT
-A KUBE-FORWARD -m comment --comment "kubernetes forwarding conntrack rule" -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
-A KUBE-SERVICES -d 10.254.0.14/32 -p tcp -m comment --comment "default/nobody has no endpoints" -m tcp --dport 80 -j REJECT --reject-with icmp-port-unreachable
COMMIT
*nat
:PREROUTING ACCEPT [0:0]
:INPUT ACCEPT [0:0]
:OUTPUT ACCEPT [0:0]
:POSTROUTING ACCEPT [0:0]
:KUBE-EXT-OTHER - [0:0]
:KUBE-MARK-MASQ - [0:0]
:KUBE-NODEPORTS - [0:0]
:KUBE-POSTROUTING - [0:0]
:KUBE-PROXY-CANARY - [0:0]
:KUBE-SEP-HERE - [0:0]
:KUBE-SEP-FAR - [0:0]
:KUBE-SEP-OTHER - [0:0]
:KUBE-SEP-GONE - [0:0]
:KUBE-SERVICES - [0:0]
:KUBE-SVC-HERE - [0:0]
:KUBE-SVC-OTHER - [0:0]
-A PREROUTING -m comment --comment "kubernetes service portals" -j KUBE-SERVICES
-A OUTPUT -m comment --comment "kubernetes service portals" -j KUBE-SERVICES
-A POSTROUTING -m comment --comment "kubernetes postrouting rules" -j KUBE-POSTROUTING
-A KUBE-EXT-OTHER -m comment --comment "masquerade traffic for default/other external destinations" -j KUBE-MARK-MASQ
-A KUBE-EXT-OTHER -j KUBE-SVC-OTHER
-A KUBE-MARK-MASQ -j MARK --set-xmark 0x4000/0x4000
-A KUBE-NODEPORTS -d 127.0.0.0/8 -p tcp -m comment --comment "default/other" -j KUBE-EXT-OTHER
-A KUBE-NODEPORTS -p tcp -m comment --comment "default/other" -m tcp --dport 30077 -j KUBE-EXT-OTHER
-A KUBE-POSTROUTING -m mark ! --mark 0x4000/0x4000 -j RETURN
-A KUBE-POSTROUTING -j MARK --set-xmark 0x4000/0x0
-A KUBE-POSTROUTING -m comment --comment "kubernetes service traffic requiring SNAT" -j MASQUERADE --random-fully
-A KUBE-SEP-HERE -s 172.17.0.2/32 -m comment --comment "default/here:t" -j KUBE-MARK-MASQ
-A KUBE-SEP-HERE -p tcp -m comment --comment "default/here:t" -m recent --set --name KUBE-SEP-HERE --mask 255.255.255.255 --rsource -m tcp -j DNAT --to-destination 172.17.0.2:8080
-A KUBE-SEP-FAR -s 172.17.1.2/32 -m comment --comment "default/here:t" -j KUBE-MARK-MASQ
-A KUBE-SEP-FAR -p tcp -m comment --comment "default/here:t" -m recent --set --name KUBE-SEP-FAR --mask 255.255.255.255 --rsource -m tcp -j DNAT --to-destination 172.17.1.2:8080
-A KUBE-SEP-OTHER -s 172.17.0.2/32 -m comment --comment "default/other" -j KUBE-MARK-MASQ
-A KUBE-SEP-OTHER -p tcp -m comment --comment "default/other" -m tcp -j DNAT --to-destination 172.17.0.2:8080
-A KUBE-SEP-GONE -s 172.17.0.77/32 -m comment --comment "default/other" -j KUBE-MARK-MASQ
-A KUBE-SEP-GONE -p tcp -m comment --comment "default/other" -m tcp -j DNAT --to-destination 172.17.0.77:8080
-A KUBE-SERVICES -d 10.254.0.10/32 -p tcp -m comment --comment "default/here:t cluster IP" -m tcp --dport 80 -j KUBE-SVC-HERE
-A KUBE-SERVICES -d 10.254.0.77/32 -p tcp -m comment --comment "default/other cluster IP" -m tcp --dport 80 -j KUBE-SVC-OTHER
-A KUBE-SERVICES -m comment --comment "kubernetes service nodeports; NOTE: this must be the last rule in this chain" -m addrtype --dst-type LOCAL -j KUBE-NODEPORTS
-A KUBE-SVC-HERE ! -s 172.17.0.0/16 -d 10.254.0.10/32 -p tcp -m comment --comment "default/here:t cluster IP" -m tcp --dport 80 -j KUBE-MARK-MASQ
-A KUBE-SVC-HERE -m comment --comment "default/here:t -> 172.17.0.2:8080" -m recent --rcheck --seconds 10800 --reap --name KUBE-SEP-HERE --mask 255.255.255.255 --rsource -j KUBE-SEP-HERE
-A KUBE-SVC-HERE -m comment --comment "default/here:t -> 172.17.1.2:8080" -m recent --rcheck --seconds 10800 --reap --name KUBE-SEP-FAR --mask 255.255.255.255 --rsource -j KUBE-SEP-FAR
-A KUBE-SVC-HERE -m comment --comment "default/here:t -> 172.17.0.2:8080" -m statistic --mode random --probability 0.50000000000 -j KUBE-SEP-HERE
-A KUBE-SVC-HERE -m comment --comment "default/here:t -> 172.17.1.2:8080" -j KUBE-SEP-FAR
-A KUBE-SVC-OTHER ! -s 172.17.0.0/16 -d 10.254.0.77/32 -p tcp -m comment --comment "default/other cluster IP" -m tcp --dport 80 -j KUBE-MARK-MASQ
-A KUBE-SVC-OTHER -m comment --comment "default/other -> 172.17.0.2:8080" -j KUBE-SEP-OTHER
COMMIT
TXT

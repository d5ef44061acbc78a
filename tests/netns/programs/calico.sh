# What Felix has for a node with one workload interface and one policy that lets a set of addresses
# in. Its interface prefix is "docker", as the lab's bridge to its pods is named; the pools and the
# policy's selector are ipsets. $1: iptables-nft or iptables-legacy.
ipset restore <<TXT
create cali40all-ipam-pools hash:net family inet
add cali40all-ipam-pools 172.17.0.0/16
create cali40masq-ipam-pools hash:net family inet
add cali40masq-ipam-pools 172.17.0.0/16
create cali40this-host hash:ip family inet
add cali40this-host 192.168.50.11
create cali40s:clients hash:net family inet
add cali40s:clients 172.17.0.9
add cali40s:clients 172.17.1.0/24
add cali40s:clients 203.0.113.0/24
TXT
"$1-restore" <<TXT
*raw
:PREROUTING ACCEPT [0:0]
:OUTPUT ACCEPT [0:0]
:cali-OUTPUT - [0:0]
:cali-PREROUTING - [0:0]
:cali-from-host-endpoint - [0:0]
:cali-rpf-skip - [0:0]
:cali-to-host-endpoint - [0:0]
-A PREROUTING -m comment --comment "cali:6gwbT8clXdHdC1b1" -j cali-PREROUTING
-A OUTPUT -m comment --comment "cali:tVnHkvAo15HuiPy0" -j cali-OUTPUT
-A cali-OUTPUT -m comment --comment "cali:njdnLwYeGqBJyMxW" -j MARK --set-xmark 0x0/0xf0000
-A cali-OUTPUT -m comment --comment "cali:rz86uTUcEZAfFsh7" -j cali-to-host-endpoint
-A cali-OUTPUT -m comment --comment "cali:pN0F5zD0b8yf9W1Z" -m mark --mark 0x10000/0x10000 -j ACCEPT
-A cali-PREROUTING -m comment --comment "cali:XFX5xbM8B9qR10JG" -j MARK --set-xmark 0x0/0xf0000
-A cali-PREROUTING -i docker+ -m comment --comment "cali:EWMPb0zVROM-woQp" -j MARK --set-xmark 0x40000/0x40000
-A cali-PREROUTING -m comment --comment "cali:V6ooGP15glg7wm91" -m mark --mark 0x40000/0x40000 -m rpfilter --invert --validmark -j DROP
-A cali-PREROUTING -m comment --comment "cali:9rzyVVCiRkMYM6bm" -m mark --mark 0x0/0x40000 -j cali-from-host-endpoint
-A cali-PREROUTING -m comment --comment "cali:9Tz2Lzm3aYs6VJQ8" -m mark --mark 0x10000/0x10000 -j ACCEPT
COMMIT
*mangle
:PREROUTING ACCEPT [0:0]
:INPUT ACCEPT [0:0]
:FORWARD ACCEPT [0:0]
:OUTPUT ACCEPT [0:0]
:POSTROUTING ACCEPT [0:0]
:cali-PREROUTING - [0:0]
:cali-POSTROUTING - [0:0]
:cali-from-host-endpoint - [0:0]
:cali-to-host-endpoint - [0:0]
-A PREROUTING -m comment --comment "cali:6gwbT8clXdHdC1b1" -j cali-PREROUTING
-A POSTROUTING -m comment --comment "cali:O3lYWMrLQYEMJtB5" -j cali-POSTROUTING
-A cali-PREROUTING -m comment --comment "cali:6BJqBjBC7crtA-7-" -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
-A cali-PREROUTING -m comment --comment "cali:KX7AGNd6rMcDUai6" -m mark --mark 0x10000/0x10000 -j ACCEPT
-A cali-PREROUTING -m comment --comment "cali:wNH7KsA3ILKJBsY9" -j cali-from-host-endpoint
-A cali-PREROUTING -m comment --comment "cali:Cg96MgVuoPm7UMRo" -m mark --mark 0x10000/0x10000 -j ACCEPT
-A cali-POSTROUTING -m comment --comment "cali:NX-7roTexQ3fGRfU" -m mark --mark 0x10000/0x10000 -j RETURN
-A cali-POSTROUTING -m comment --comment "cali:qaajsWArU1ku9saf" -m mark ! --mark 0x0/0x80000 -j RETURN
-A cali-POSTROUTING -m comment --comment "cali:0LD-s2C5lG3sUZGw" -m conntrack --ctstate DNAT -j cali-to-host-endpoint
COMMIT
*nat
:PREROUTING ACCEPT [0:0]
:INPUT ACCEPT [0:0]
:OUTPUT ACCEPT [0:0]
:POSTROUTING ACCEPT [0:0]
:cali-OUTPUT - [0:0]
:cali-POSTROUTING - [0:0]
:cali-PREROUTING - [0:0]
:cali-fip-dnat - [0:0]
:cali-fip-snat - [0:0]
:cali-nat-outgoing - [0:0]
-A PREROUTING -m comment --comment "cali:6gwbT8clXdHdC1b1" -j cali-PREROUTING
-A OUTPUT -m comment --comment "cali:tVnHkvAo15HuiPy0" -j cali-OUTPUT
-A POSTROUTING -m comment --comment "cali:O3lYWMrLQYEMJtB5" -j cali-POSTROUTING
-A cali-OUTPUT -m comment --comment "cali:GBTAv2p5CwevEyJm" -j cali-fip-dnat
-A cali-POSTROUTING -m comment --comment "cali:Z-c7XtVd2Bq7s_hA" -j cali-fip-snat
-A cali-POSTROUTING -m comment --comment "cali:nYKhEzDlr11Jccal" -j cali-nat-outgoing
-A cali-PREROUTING -m comment --comment "cali:r6XmIziWUJsdOK6Z" -j cali-fip-dnat
-A cali-nat-outgoing -m comment --comment "cali:flqWnvo8yq4ULQLa" -m set --match-set cali40masq-ipam-pools src -m set ! --match-set cali40all-ipam-pools dst -j MASQUERADE --random-fully
COMMIT
*filter
:INPUT ACCEPT [0:0]
:FORWARD ACCEPT [0:0]
:OUTPUT ACCEPT [0:0]
:cali-FORWARD - [0:0]
:cali-INPUT - [0:0]
:cali-OUTPUT - [0:0]
:cali-cidr-block - [0:0]
:cali-from-hep-forward - [0:0]
:cali-from-host-endpoint - [0:0]
:cali-from-wl-dispatch - [0:0]
:cali-fw-docker0 - [0:0]
:cali-pi-_clients - [0:0]
:cali-pri-kns.default - [0:0]
:cali-pro-kns.default - [0:0]
:cali-to-hep-forward - [0:0]
:cali-to-host-endpoint - [0:0]
:cali-to-wl-dispatch - [0:0]
:cali-tw-docker0 - [0:0]
:cali-wl-to-host - [0:0]
-A INPUT -m comment --comment "cali:Cz_u1IQiXIMmKD4c" -j cali-INPUT
-A FORWARD -m comment --comment "cali:wUHhoiAYhphO9Mso" -j cali-FORWARD
-A FORWARD -m comment --comment "cali:S93hcgKJrXEqnTfs" -m comment --comment "Policy explicitly accepted packet." -m mark --mark 0x10000/0x10000 -j ACCEPT
-A FORWARD -m comment --comment "cali:mp77cMpurHhyjLrM" -j MARK --set-xmark 0x10000/0x10000
-A OUTPUT -m comment --comment "cali:tVnHkvAo15HuiPy0" -j cali-OUTPUT
-A cali-FORWARD -m comment --comment "cali:vjrMJCRpqwy5oRoX" -j MARK --set-xmark 0x0/0xe0000
-A cali-FORWARD -m comment --comment "cali:A_sPAO0mcxbT9mOV" -m mark --mark 0x0/0x10000 -j cali-from-hep-forward
-A cali-FORWARD -i docker+ -m comment --comment "cali:8ZoYfO5HKXWbB3pk" -j cali-from-wl-dispatch
-A cali-FORWARD -o docker+ -m comment --comment "cali:jdEuaPBe14V2hutn" -j cali-to-wl-dispatch
-A cali-FORWARD -m comment --comment "cali:12bc6HljsMKsmfr-" -j cali-to-hep-forward
-A cali-FORWARD -m comment --comment "cali:NOSxoaGx8OIstr1z" -j cali-cidr-block
-A cali-INPUT -i docker+ -m comment --comment "cali:FewJpBykm9iJ-YNH" -g cali-wl-to-host
-A cali-INPUT -m comment --comment "cali:hder3ARWznqqv8Va" -m mark --mark 0x10000/0x10000 -j ACCEPT
-A cali-INPUT -m comment --comment "cali:xgOu2uJft6H9oDGF" -j MARK --set-xmark 0x0/0xf0000
-A cali-INPUT -m comment --comment "cali:_-d-qojMfHM6NwBo" -j cali-from-host-endpoint
-A cali-INPUT -m comment --comment "cali:LqmE76MP94lZTGhA" -m comment --comment "Host endpoint policy accepted packet." -m mark --mark 0x10000/0x10000 -j ACCEPT
-A cali-OUTPUT -m comment --comment "cali:Mq1_rAdXXH3YkrzW" -m mark --mark 0x10000/0x10000 -j ACCEPT
-A cali-OUTPUT -o docker+ -m comment --comment "cali:69FkRTJDvD5Vu6Vl" -j RETURN
-A cali-OUTPUT -m comment --comment "cali:Fskumj4SGQtDV6GC" -j MARK --set-xmark 0x0/0xf0000
-A cali-OUTPUT -m comment --comment "cali:1F4VWEsQu0QbRwKf" -m conntrack ! --ctstate DNAT -j cali-to-host-endpoint
-A cali-OUTPUT -m comment --comment "cali:m8Eqm15x1MjD24LD" -m comment --comment "Host endpoint policy accepted packet." -m mark --mark 0x10000/0x10000 -j ACCEPT
-A cali-from-wl-dispatch -i docker0 -m comment --comment "cali:wyDqLgDNjxQ2oAmB" -g cali-fw-docker0
-A cali-from-wl-dispatch -m comment --comment "cali:VvRsuHIGxVhrwFfd" -m comment --comment "Unknown interface" -j DROP
-A cali-to-wl-dispatch -o docker0 -m comment --comment "cali:hAC14cQvnhKGWEWJ" -g cali-tw-docker0
-A cali-to-wl-dispatch -m comment --comment "cali:Ubrk35RjQEfdPqHA" -m comment --comment "Unknown interface" -j DROP
-A cali-fw-docker0 -m comment --comment "cali:4Yu1pbdQIPCIBFsv" -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
-A cali-fw-docker0 -m comment --comment "cali:2OWSYlHXNQ1aUlCN" -m conntrack --ctstate INVALID -j DROP
-A cali-fw-docker0 -m comment --comment "cali:wYbHrZsMTFCCKKbH" -j MARK --set-xmark 0x0/0x10000
-A cali-fw-docker0 -p udp -m comment --comment "cali:Ib1VT6PYchKz5S6p" -m comment --comment "Drop VXLAN encapped packets originating in workloads" -m multiport --dports 4789 -j DROP
-A cali-fw-docker0 -p ipencap -m comment --comment "cali:ImVTKkxyLr5Df2Fm" -m comment --comment "Drop IPinIP encapped packets originating in workloads" -j DROP
-A cali-fw-docker0 -m comment --comment "cali:x9W0Y8-VnzFZnZlT" -j cali-pro-kns.default
-A cali-fw-docker0 -m comment --comment "cali:sGJR9TYHfYSxkKpA" -m comment --comment "Return if profile accepted" -m mark --mark 0x10000/0x10000 -j RETURN
-A cali-fw-docker0 -m comment --comment "cali:T2hVOpUnIvbUoWSX" -m comment --comment "Drop if no profiles matched" -j DROP
-A cali-pro-kns.default -m comment --comment "cali:oLzzje5WExbgfib5" -j MARK --set-xmark 0x10000/0x10000
-A cali-pro-kns.default -m comment --comment "cali:4goskqvxh5xcGw3s" -m mark --mark 0x10000/0x10000 -j RETURN
-A cali-tw-docker0 -m comment --comment "cali:ZLw_XKEHxPsrmqvC" -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
-A cali-tw-docker0 -m comment --comment "cali:nRhzHbgmYt4k5S-1" -m conntrack --ctstate INVALID -j DROP
-A cali-tw-docker0 -m comment --comment "cali:iurZTO-aRR9EyXzp" -j MARK --set-xmark 0x0/0x10000
-A cali-tw-docker0 -m comment --comment "cali:cl5Z2fF2zKQzJXvi" -m comment --comment "Start of policies" -j MARK --set-xmark 0x0/0x20000
-A cali-tw-docker0 -m comment --comment "cali:pTGvUsR0fUZbX9pN" -m mark --mark 0x0/0x20000 -j cali-pi-_clients
-A cali-tw-docker0 -m comment --comment "cali:RxuMA09oz1U9jjDO" -m comment --comment "Return if policy accepted" -m mark --mark 0x10000/0x10000 -j RETURN
-A cali-tw-docker0 -m comment --comment "cali:Jq5I_7cXfZVc2MrW" -m comment --comment "Drop if no policies passed packet" -m mark --mark 0x0/0x20000 -j DROP
-A cali-pi-_clients -p tcp -m comment --comment "cali:dCk7QWdLS3RV7Yfy" -m set --match-set cali40s:clients src -m multiport --dports 80,8000:8090 -j MARK --set-xmark 0x10000/0x10000
-A cali-pi-_clients -m comment --comment "cali:1WnVTxKvZcJ2FPNp" -m mark --mark 0x10000/0x10000 -j RETURN
-A cali-wl-to-host -m comment --comment "cali:Ee9Sbo10IpVujdIY" -j cali-from-wl-dispatch
-A cali-wl-to-host -m comment --comment "cali:nSZbcOoG1xPONxb8" -m comment --comment "Configured DefaultEndpointToHostAction" -j ACCEPT
COMMIT
TXT

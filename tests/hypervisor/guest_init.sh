#!/bin/busybox sh
# The first and only program of the test guest.
#
#   fib.disks=vda,vdb   ext4 disks to mount below /mnt
#   fib.agent=on|off|hang|slow|fail
#                       hang: the port is open, nobody answers    slow: freezing takes fib.delay seconds
#                       fail: every freeze is refused
#   fib.writer=on|off   append records of fib.kib KiB, wait fib.pause microseconds, again
#   fib.counter=on|off  count, ten times a second, in memory and nowhere else
#
# On the console:  READY             the disks are mounted, the agent is started
#                  ACK n             record n is on every disk, after fsync
#                  COUNT n           the counter; it begins with 1 at each boot
#                  FAILED what       something that never happens on a healthy machine
export PATH=/bin
/bin/busybox mkdir -p /proc /sys /dev /run /tmp /mnt /sbin
/bin/busybox --install -s /bin
mount -t devtmpfs dev /dev
mount -t proc proc /proc
mount -t sysfs sys /sys
dmesg -n 1

disks=vda agent=on writer=on counter=off kib=8 pause=50000 delay=30
for word in $(cat /proc/cmdline); do
	case $word in
	fib.disks=*) disks=${word#*=} ;;
	fib.agent=*) agent=${word#*=} ;;
	fib.writer=*) writer=${word#*=} ;;
	fib.counter=*) counter=${word#*=} ;;
	fib.kib=*) kib=${word#*=} ;;
	fib.pause=*) pause=${word#*=} ;;
	fib.delay=*) delay=${word#*=} ;;
	esac
done
disks=$(echo "$disks" | tr , ' ')

for module in virtio_ring virtio virtio_pci_modern_dev virtio_pci_legacy_dev virtio_pci virtio_blk virtio_console; do
	[ ! -e /modules/$module.ko ] || insmod /modules/$module.ko || echo "FAILED insmod $module"
done

for disk in $disks; do
	until [ -b /dev/$disk ]; do usleep 20000; done
	mkdir -p /mnt/$disk
	mount -t ext4 /dev/$disk /mnt/$disk || echo "FAILED mount $disk"
done

start_agent() {
	port=
	while [ -z "$port" ]; do
		for name in /sys/class/virtio-ports/*/name; do
			[ "$(cat $name 2>/dev/null)" != org.qemu.guest_agent.0 ] || port=$(basename ${name%/name})
		done
		[ -n "$port" ] || usleep 20000
	done
	hook=
	case $agent in
	hang)
		tail -f /dev/null <>/dev/$port >/dev/null 2>&1 &
		return
		;;
	slow)
		printf '#!/bin/sh\n[ "$1" != freeze ] || sleep %s\n' "$delay" >/hook
		hook=-F/hook
		;;
	fail)
		printf '#!/bin/sh\n[ "$1" != freeze ]\n' >/hook
		hook=-F/hook
		;;
	esac
	[ -z "$hook" ] || chmod 755 /hook
	qemu-ga -m virtio-serial -p /dev/$port -t /run -f /run/qga.pid $hook </dev/null >/run/qga.log 2>&1 &
}

# qemu-ga's guest-shutdown runs /sbin/shutdown.
cat >/sbin/shutdown <<'EOF'
#!/bin/busybox sh
kill "$(cat /run/writer.pid)"
usleep 200000
umount -a -t ext4
poweroff -f
EOF
chmod 755 /sbin/shutdown

# A record is a line "REC number disk bytes md5", that many bytes, and a line "END number disk". Each boot has its own
# file, so a torn record at the end of one file is never in the middle of it.
last_number() {
	last=$(cat /mnt/$1/records-* 2>/dev/null | grep -a -o "^END [0-9]* $1\$" | tail -n 1)
	last=${last#END }
	last=${last% *}
}

append() {
	dd if=/dev/urandom of=/run/payload bs=1024 count=$kib 2>/dev/null
	sum=$(md5sum </run/payload)
	{
		echo "REC $2 $1 $((kib * 1024)) ${sum%% *}"
		cat /run/payload
		printf '\nEND %s %s\n' $2 $1
	} >/run/record
	cat /run/record >>/mnt/$1/records-$boot
}

# A crash may have left a record on one disk and not on the other: the numbers of each disk have no gaps, so the other
# one gets its own record of that number.
catch_up() {
	number=0
	for disk in $disks; do
		last_number $disk
		[ "${last:-0}" -le $number ] || number=$last
	done
	for disk in $disks; do
		last_number $disk
		while [ "${last:-0}" -lt $number ]; do
			last=$((last + 1))
			append $disk $last || return 1
		done
	done
}

write_records() {
	boot=1 files=
	for disk in $disks; do
		while [ -e /mnt/$disk/records-$boot ]; do boot=$((boot + 1)); done
	done
	for disk in $disks; do files="$files /mnt/$disk/records-$boot"; done
	catch_up || return 1
	while :; do
		number=$((number + 1))
		for disk in $disks; do append $disk $number || return 1; done
		sync $files || return 1
		echo "ACK $number"
		usleep $pause
	done
}

[ "$agent" = off ] || start_agent
echo READY
if [ "$counter" = on ]; then
	while :; do
		count=$((count + 1))
		echo "COUNT $count"
		usleep 100000
	done &
fi
if [ "$writer" = on ]; then
	(write_records || echo "FAILED writer at $number") &
	echo $! >/run/writer.pid
fi
while :; do
	sleep 3600 &
	wait $!
done

# What makes a Debian of files a disk's: run by mmdebstrap with the root folder as $1, as root or as what it takes for root.
# Set beforehand: ROOT_UUID, ESP_UUID, HASH_SEED, OPTIONS (of the kernel), EPOCH, SIZE_MIB (of the root file system).
# What the disk is made of is left in $1/media, which is not part of it.
set -eu
root=$1

cat >"$root/etc/fstab" <<END
UUID=$ROOT_UUID / ext4 errors=remount-ro 0 1
UUID=$ESP_UUID /boot/efi vfat umask=0077,nofail 0 1
END
cat >"$root/etc/cloud/cloud.cfg.d/90-image.cfg" <<END
datasource_list: [NoCloud, None]
system_info: {network: {renderers: [netplan]}}
END
mkdir -p "$root/etc/default/grub.d" "$root/boot/efi" "$root/boot/grub/i386-pc"
cat >"$root/etc/default/grub.d/50-image.cfg" <<END
GRUB_CMDLINE_LINUX="$OPTIONS"
GRUB_CMDLINE_LINUX_DEFAULT=
GRUB_TIMEOUT=1
END
touch "$root/etc/grub.d/enable_cloud" # lets grub-cloud-amd64 install a new GRUB when Debian has one
cp "$root"/usr/lib/grub/i386-pc/*.mod "$root"/usr/lib/grub/i386-pc/*.lst "$root/boot/grub/i386-pc"
# Until update-grub makes one, with the next kernel.
kernel=$(cd "$root/boot" && echo vmlinuz-*)
cat >"$root/boot/grub/grub.cfg" <<END
search.fs_uuid $ROOT_UUID root
linux /boot/$kernel root=UUID=$ROOT_UUID ro $OPTIONS
initrd /boot/initrd.img-${kernel#vmlinuz-}
boot
END
chroot "$root" systemctl --quiet enable systemd-networkd.service ssh.service
chroot "$root" systemctl --quiet mask systemd-networkd-wait-online.service

# What differs from one build to the next, or is each host's own.
rm -f "$root"/etc/ssh/ssh_host_* "$root"/etc/resolv.conf "$root"/etc/hostname "$root"/var/lib/dbus/machine-id
rm -f "$root"/var/cache/ldconfig/aux-cache "$root"/etc/*- "$root"/var/lib/systemd/random-seed
for folder in log cache/apt cache/debconf lib/apt/lists tmp; do
    find "$root/var/$folder" -type f ! -name lock -delete
done
touch "$root/etc/.updated" "$root/var/.updated" # else the first boot rebuilds caches (systemd-update-done(8))
: >"$root/etc/machine-id" # empty: made at the first boot, and services are as enabled here

parts=$root/media/parts
mkdir "$parts"
cp "$root/usr/lib/shim/shimx64.efi.signed" "$parts/bootx64.efi"
cp "$root/usr/lib/grub/x86_64-efi-signed/grubx64.efi.signed" "$parts/grubx64.efi"
cat >"$parts/grub.cfg" <<END
search.fs_uuid $ROOT_UUID root
set prefix=(\$root)/boot/grub
configfile \$prefix/grub.cfg
END
cp "$root/usr/lib/grub/i386-pc/boot.img" "$parts/boot.img"
chroot "$root" grub-mkimage --format=i386-pc --prefix=/boot/grub --config=/media/parts/grub.cfg \
    --output=/media/parts/core.img biosdisk part_gpt ext2 search_fs_uuid normal configfile linux

# Mounted once more, the tree is seen without what is mounted in it, what is made of it, and what mmdebstrap has in /tmp:
# with that gone, it would take the apt of this machine for that of the tree.
trap 'umount "$root/mnt/media" "$root/mnt/tmp" "$root/mnt"' EXIT
mount --bind "$root" "$root/mnt"
mount -t tmpfs -o mode=0755 empty "$root/mnt/media"
mount -t tmpfs -o mode=1777 empty "$root/mnt/tmp"
find "$root/mnt" -xdev -newermt "@$EPOCH" -exec touch --no-dereference --date="@$EPOCH" {} +
truncate --size="${SIZE_MIB}M" "$parts/root.img"
chroot "$root" mke2fs -q -F -t ext4 -L root -U "$ROOT_UUID" -E "hash_seed=$HASH_SEED,root_owner=0:0" -m 1 \
    -d /mnt /media/parts/root.img

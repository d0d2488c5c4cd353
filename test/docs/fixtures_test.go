package docs

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/scratch"
	"github.com/droverhq/drover/test/host"
	"github.com/droverhq/drover/test/require"
)

// fixtures are requested by notes as setup=NAME. Each one establishes what the text before its block says, whatever
// happened before.
func fixtures() map[string]func(*testing.T, *world) {
	return map[string]func(*testing.T, *world){
		"none":          func(*testing.T, *world) {},
		"mysql-up":      setupMySQLUp,
		"disk":          setupDisk,
		"btrfs":         setupBtrfs,
		"devices":       setupDevices,
		"devices-moved": setupDevicesMoved,
		"stopped":       setupStopped,
		"local-data":    setupLocalData,
		"profiles":      setupProfiles,
		"killed":        setupKilled,
		"db":            setupDB,
		"changed-since": setupChangedSince,
		"store-damaged": setupStoreDamaged,
		"agent-lost":    setupAgentLost,
		"both-lost":     setupBothLost,
		"host-lost":     setupHostLost,
		"disk-away":     setupDiskAway,
		"disk-moved":    setupDiskMoved,
		"pool-gone":     setupPoolGone,
		"pool-full":     setupPoolFull,
		"host-full":     setupHostFull,
		"small":         setupSmall,
		"in-use":        setupInUse,
		"nameless":      setupNameless,
		"quarantine":    setupQuarantine,
		"compose-up":    setupComposeUp,
		"blog-up":       setupBlogUp,
		"api-volume":    setupAPIVolume,
		"check":         setupCheck,
		"loop-db":       setupLoopDB,
	}
}

// service runs a container with a volume at /data, and replaces one with the same name.
func (w *world) service(t *testing.T, name, volume string) {
	t.Helper()
	w.must(t,
		"docker rm -f "+name+" 2>/dev/null || true",
		"docker run -d --name "+name+" -v "+volume+":/data --volume-driver drover redis")
	w.answers(t, "docker exec "+name+" redis-cli ping")
}

// setupDisk mounts a new disk with XFS at /mnt/disk, as /etc/fstab says.
func setupDisk(t *testing.T, w *world) {
	image := scratch.Image(t, "xfs", 64<<30)
	w.must(t,
		"mkdir /mnt/disk",
		"echo '"+image+" /mnt/disk xfs loop 0 0' >> /etc/fstab",
		"mount /mnt/disk")
}

// setupBtrfs mounts a new disk with btrfs at /mnt/btrfs.
func setupBtrfs(t *testing.T, w *world) {
	w.must(t, "mkdir /mnt/btrfs", "mount -o loop "+scratch.Image(t, "btrfs", 64<<30)+" /mnt/btrfs")
}

// setupMySQLUp waits for the database of the first command of README.md.
func setupMySQLUp(t *testing.T, w *world) {
	w.answers(t, "docker exec mysql mariadb -pexample -e 'select 1'")
}

func setupStopped(t *testing.T, w *world) {
	w.answers(t, "docker exec dev mariadb -pexample -e 'select 1'")
	w.must(t, "docker stop -t 60 mysql dev")
	w.awaitUnused(t)
}

// answers waits until a command succeeds.
func (w *world) answers(t *testing.T, line string) {
	t.Helper()
	host.Await(t, line, func() error {
		if out, exit := w.sh(t, line); exit != 0 {
			return fmt.Errorf("exit %d: %s", exit, out)
		}
		return nil
	})
}

// setupLocalData makes a volume of Docker's local driver, with a container that uses it, and a folder.
func setupLocalData(t *testing.T, w *world) {
	w.must(t,
		"docker run -d --name app_db_1 -v app_data:/data redis",
		"docker exec app_db_1 sh -c 'echo local > /data/local'",
		"mkdir -p /srv/app/data", "echo folder > /srv/app/data/folder")
}

func setupProfiles(t *testing.T, w *world) {
	src, err := filepath.Abs(filepath.Join(top, "profiles.yaml"))
	require.NoError(t, err)
	w.must(t, "cp "+src+" /etc/drover/profiles.yaml")
}

// setupDB runs a Redis on the volume db.
func setupDB(t *testing.T, w *world) {
	w.must(t, "drover volume inspect db >/dev/null 2>&1 || drover volume create db@gold -o pool=default")
	w.service(t, "app-db", "db@gold")
	w.must(t, "docker exec app-db redis-cli set key value", "docker exec app-db redis-cli save")
}

func setupKilled(t *testing.T, w *world) {
	setupDB(t, w)
	w.h.Kill9(t)
	w.up = false
}

// setupChangedSince leaves a backup with a volume that has been destroyed since, and without a volume that was made
// since.
func setupChangedSince(t *testing.T, w *world) {
	w.must(t,
		"drover volume create gone@gold",
		"rm -f /var/backups/drover.db",
		"drover store backup /var/backups/drover.db",
		"drover volume rm gone", "drover trash purge gone --yes",
		"drover volume create late@gold", "drover snapshot create late --name later")
}

// setupStoreDamaged leaves a store that cannot be read.
func setupStoreDamaged(t *testing.T, w *world) {
	setupDB(t, w)
	w.stop(t)
	w.must(t, "dd if=/dev/urandom of=/var/lib/drover/store.db bs=64k count=1 conv=notrunc status=none")
}

// setupAgentLost keeps only the store, with a volume in use.
func setupAgentLost(t *testing.T, w *world) {
	setupDB(t, w)
	w.stop(t)
	w.must(t, "rm /var/lib/drover/agent.db")
}

// setupBothLost keeps the data of the pools, and no records of it in the store or the agent.
func setupBothLost(t *testing.T, w *world) {
	w.must(t, "docker rm -f $(docker ps -aq)", "rm -f /etc/drover/drover.yaml")
	w.stop(t)
	if err := w.h.Unmount(); err != nil { // as a reboot would
		t.Fatal(err)
	}
	w.must(t, "rm /var/lib/drover/store.db /var/lib/drover/agent.db")
}

// setupHostLost replaces the host by another one that has only the files of /etc/drover.
func setupHostLost(t *testing.T, w *world) {
	w.noContainers(t)
	w.stop(t)
	require.NoError(t, w.h.Unmount())
	w.must(t, "find /var/lib/drover -mindepth 1 -delete")
	w.start(t)
}

// setupDiskAway makes a volume on the disk, which is then unmounted.
func setupDiskAway(t *testing.T, w *world) {
	w.must(t, "rm -f /etc/drover/drover.yaml")
	w.stop(t)
	w.start(t) // with a pool known from before, as one that was made by a command
	w.must(t,
		"drover pool ls | grep -q '^fast ' || drover pool adopt /mnt/disk/fast",
		"drover volume create cache@gold -o pool=fast")
	w.awaitUnused(t)
	w.must(t, "umount /mnt/disk")
}

func setupDiskMoved(t *testing.T, w *world) {
	w.awaitUnused(t)
	w.must(t, "umount /mnt/disk", "mkdir /mnt/new", "mount -o loop $(awk '$2 == \"/mnt/disk\" {print $1}' /etc/fstab) /mnt/new")
}

// setupPoolGone makes a pool whose folder is missing.
func setupPoolGone(t *testing.T, w *world) {
	w.must(t, "drover pool create old --backend dir --path /srv/old", "rm -r /srv/old")
}

// setupPoolFull has the disk mounted again and nearly full, with something in the trash whose removal makes room.
func setupPoolFull(t *testing.T, w *world) {
	w.must(t, "umount /mnt/new", "mount /mnt/disk", "drover pool adopt /mnt/disk/fast")
	w.answers(t, "drover volume create old@gold -o pool=fast") // after control has learned that it is online again
	w.service(t, "app-old", "old@gold")
	w.must(t,
		"docker exec app-old dd if=/dev/zero of=/data/zeros bs=1M count=200 conv=fsync",
		"docker rm -f app-old")
	w.awaitUnused(t)
	w.must(t, "drover volume rm old")
	w.service(t, "app-cache", "cache@gold")
	w.must(t, "drover snapshot create cache --name early")
	w.fill(t, "/mnt/disk", 40<<20)
}

// setupHostFull fills the disk of the root nearly.
func setupHostFull(t *testing.T, w *world) {
	w.must(t, "rm -f /mnt/disk/ballast", "drover volume create junk@gold -o pool=default")
	w.service(t, "app-junk", "junk@gold")
	w.must(t,
		"docker exec app-junk dd if=/dev/zero of=/data/zeros bs=1M count=2000 conv=fsync",
		"docker rm -f app-junk")
	w.awaitUnused(t)
	w.fill(t, "/var/lib/drover", int64(backends.Reserve(rootSize))-200<<20) // less than the root needs
}

// fill allocates a file, so that the free space is the given number of bytes below what must stay free.
func (w *world) fill(t *testing.T, dir string, missing int64) {
	t.Helper()
	var st unix.Statfs_t
	require.NoError(t, unix.Statfs(dir, &st))
	least := int64(backends.Reserve(dataset.Size(int64(st.Blocks) * st.Bsize)))
	w.must(t, fmt.Sprintf("fallocate -l %d %s/ballast", int64(st.Bavail)*st.Bsize-least+missing, dir))
}

func setupSmall(t *testing.T, w *world) {
	w.must(t, "rm -f /var/lib/drover/ballast", "drover volume create small -o size=1GiB -o pool=default")
	w.service(t, "app-small", "small")
}

func setupInUse(t *testing.T, w *world) {
	setupDB(t, w)
	w.must(t, "drover snapshot create db --name before")
}

// setupNameless leaves an anonymous volume that an image requested.
func setupNameless(t *testing.T, w *world) {
	w.must(t, "docker run --name job -v db@gold:/job --volume-driver drover redis true", "docker rm job")
}

// setupQuarantine leaves the volume stray in its pool, without any record of it.
func setupQuarantine(t *testing.T, w *world) {
	w.must(t, "drover volume rm stray 2>/dev/null && drover trash purge stray --yes || true")
	w.stop(t)
	w.must(t, "mkdir -p /var/backups/older", "cp /var/lib/drover/*.db /var/backups/older")
	w.start(t)
	w.must(t, "drover volume create stray@gold")
	delete(w.ids, "stray")
	w.ids["stray"] = w.dataset(t, "stray")
	w.stop(t)
	w.must(t, "cp /var/backups/older/*.db /var/lib/drover")
	w.start(t)
}

func setupComposeUp(t *testing.T, w *world) {
	w.must(t, "docker compose -f /srv/app/compose.yaml up -d")
	w.answers(t, "docker compose -f /srv/app/compose.yaml exec -T db mariadb -pexample -e 'create database if not exists shop'")
}

// setupBlogUp starts the project of docs/adopting.md.
func setupBlogUp(t *testing.T, w *world) {
	w.must(t, "docker compose -f /srv/blog/compose.yaml up -d")
	w.answers(t, "docker compose -f /srv/blog/compose.yaml exec -T db mariadb -pexample -e 'create database if not exists blog'")
}

// setupCheck makes a check program that needs no MariaDB.
func setupCheck(t *testing.T, w *world) {
	const path = "/etc/drover/checks/mariadb"
	w.must(t, "mkdir -p -m 755 /etc/drover/checks",
		`printf '#!/bin/sh\ntest -d "$1" && test "$DROVER_VOLUME" = db\n' >`+path, "chmod 700 "+path)
}

func setupAPIVolume(t *testing.T, w *world) {
	w.must(t, "drover volume create site@gold")
}

func setupLoopDB(t *testing.T, w *world) {
	setupDB(t, w)
	w.must(t, "drover snapshot create db --name before", "docker exec app-db redis-cli set key newer")
}

// Each fixture is used by a page. An unused one would become outdated.
func TestFixturesAreUsed(t *testing.T) {
	var notes []string
	for _, p := range pages(t) {
		for _, b := range p.blocks {
			for _, word := range b.note.words {
				notes = append(notes, word.key+"="+word.value)
			}
		}
	}
	all := " " + strings.Join(notes, " ") + " "
	for name := range fixtures() {
		if !strings.Contains(all, " setup="+name+" ") {
			t.Errorf("no page has setup=%s", name)
		}
	}
	_, err := os.Stat(filepath.Join(top, "go.mod"))
	require.NoError(t, err)
}

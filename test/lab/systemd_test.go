package lab

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/droverhq/drover/internal/long"
	"github.com/droverhq/drover/test/lab/inside"
)

// TestSystemd is B6 with the units that make install installs: a host with systemd, Docker and a container with
// restart policy always loses its power.
func TestSystemd(t *testing.T) {
	if !all() {
		long.Only(t)
	}
	vm := installed(t, "")
	vm.must(t, "tar -C / -c ."+inside.Guest+" | docker import - witness")
	vm.must(t, "docker run -d --name one --network none --restart always --volume-driver drover -v db@bronze:/data witness "+inside.Guest+" witness")
	vm.must(t, "docker run -d --name mortal --network none --volume-driver drover -v db@bronze:/data witness "+inside.Guest+" witness")
	const boots = "cat $(docker volume inspect -f '{{.Mountpoint}}' db@bronze)/boots"
	before := vm.await(t, 2, boots)

	vm.Reset(t)
	after := vm.await(t, 3, boots)
	if strings.Join(after[:2], " ") != strings.Join(before, " ") || after[2] == after[1] {
		t.Errorf("the volume had %q before the boot, %q after it", before, after)
	}
	if running := vm.must(t, "docker ps --format '{{.Names}}'"); strings.Join(running, " ") != "one" {
		t.Errorf("after the boot there run %q", running)
	}
	// Each moment of systemd's clock is later than the one before.
	vm.must(t, "test $(systemctl show -P ActiveEnterTimestampMonotonic drover) -lt $(systemctl show -P ExecMainStartTimestampMonotonic docker)")
	if bare := vm.must(t, "mount --bind /var/lib/drover /mnt && find /mnt/mnt /mnt/*/mnt -mindepth 2 2>/dev/null; umount /mnt"); len(bare) > 0 {
		t.Errorf("below the mount points there are %q", bare)
	}
	vm.must(t, "systemctl --quiet is-active drover.service drover.socket docker.service && ! systemctl --quiet is-failed 'drover*'")
}

// installed is a machine with systemd, an engine and the result of make install, with the given profiles. Without
// profiles it has the built-in ones.
func installed(t *testing.T, profiles string) *VM {
	t.Helper()
	dir := t.TempDir()
	for _, args := range [][]string{{"make", "build"}, {"scripts/install.sh"}} {
		cmd := exec.Command(args[0], args[1:]...)
		cmd.Dir, cmd.Env = repository(t), append(os.Environ(), "PREFIX=/usr/local", "DESTDIR="+filepath.Join(dir, "staged"))
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%s: %v\n%s", args, err, out)
		}
	}
	if profiles != "" {
		file := filepath.Join(dir, "staged/etc/drover/profiles.yaml")
		if err := errors.Join(os.MkdirAll(filepath.Dir(file), 0o755), os.WriteFile(file, []byte(profiles), 0o600)); err != nil {
			t.Fatal(err)
		}
	}
	vm := Boot(t, Options{Dir: dir, Systemd: true, CPUs: 2, Disks: []Disk{{"state", 8 * gib}}})
	vm.must(t, "mkfs.xfs -q -K -L state $DROVER_LAB_DISK_STATE")
	vm.must(t, "echo 'LABEL=state /var/lib/drover xfs defaults 0 0' >>/etc/fstab && mkdir -p /var/lib/drover")
	vm.must(t, "cp -a /lab/staged/. / && systemd-sysusers && systemctl daemon-reload")
	vm.must(t, "mount /var/lib/drover && systemctl enable --now drover.socket drover.service docker.service")
	return vm
}

// must runs a line of shell in the machine and returns the lines of its output.
func (vm *VM) must(t *testing.T, line string) []string {
	t.Helper()
	said, exit := vm.shell(t, line)
	if exit != 0 {
		journal, _ := vm.shell(t, "journalctl -b --no-pager -n 60")
		t.Fatalf("%s: exit %d\n%s\nits journal:\n%s", line, exit, strings.Join(said, "\n"), strings.Join(journal, "\n"))
	}
	return said
}

func (vm *VM) shell(t *testing.T, line string) (said []string, exit int) {
	t.Helper()
	exit, err := vm.Run(t.Context(), inside.Command{Args: []string{"sh", "-c", line}, Seconds: 180}, func(s string) { said = append(said, s) })
	if err != nil {
		t.Fatalf("%s: %v\n%s\nits console:\n%s", line, err, strings.Join(said, "\n"), vm.Console(40))
	}
	return said, exit
}

// await runs a line of shell until its output has the given number of lines.
func (vm *VM) await(t *testing.T, lines int, line string) []string {
	t.Helper()
	for began := time.Now(); ; time.Sleep(time.Second) {
		said, exit := vm.shell(t, line)
		if exit == 0 && len(said) >= lines {
			return said
		}
		if time.Since(began) > 3*time.Minute {
			vm.must(t, "docker ps -a; systemctl status --no-pager drover docker; false")
		}
	}
}

const sealedProfiles = `
default: bronze
profiles:
  bronze: {}
  gold: {size: 1GiB, encryption: {key_file: /etc/drover/keys/gold}}
  fast: {size: 1GiB, encryption: {key_file: /etc/drover/keys/gold}, qos: {write_bps: 5MiB, strict: true}}
`

// TestEncryptionAsTyped runs the commands of docs/encryption.md, with the installed units and a container that writes
// all the time: a first key, a key change during which the agent is killed, a key that changed while nothing was
// running, and a key that is lost.
func TestEncryptionAsTyped(t *testing.T) {
	long.Only(t)
	vm := installed(t, sealedProfiles)
	vm.must(t, "tar -C / -c bin sbin lib lib64 | docker import - tools")
	vm.must(t, "mkdir -p -m 700 /etc/drover/keys && (umask 077; head -c 64 /dev/urandom > /etc/drover/keys/gold)")
	vm.must(t, "drover volume create plain && mkdir /root/of && echo SaysInPlain >/root/of/f")
	vm.must(t, "drover volume set-profile plain gold --dry-run | grep 'copies its files into a new dataset'")
	vm.must(t, "drover volume import db@fast --from /root/of")
	// Zeros would be one line for grep, which does not fit into its memory.
	if found, exit := vm.shell(t, "sync; tr '\\0' '\\n' </var/lib/drover/pools/default/datasets/$(drover volume inspect db -o json | grep -om1 'dataset.*' | grep -oE '[0-9a-f]{8}-[0-9a-f-]{27}')/head.img | grep -caF SaysInPlain"); exit != 1 || found[0] != "0" {
		t.Errorf("in the image it can be read: %q", found)
	}

	vm.must(t, container("db@fast", "-d --name app")+"'while :; do echo row >>/data/log; sync /data/log; sleep 0.1; done'")
	rule := vm.must(t, "cat $(find /sys/fs/cgroup/system.slice -maxdepth 1 -name io.max)")
	device := vm.must(t, "mountpoint -d $(docker volume inspect -f '{{.Mountpoint}}' db@fast)")
	if len(rule) != 1 || !strings.HasPrefix(rule[0], device[0]+" ") {
		t.Errorf("the volume is %q, and the limit is %q", device, rule)
	}
	vm.must(t, "drover snapshot create db --name before && drover volume resize db 1.5GiB && drover clone db copy")

	// Whenever it is killed, repeating the command completes it, and the data key is never lost.
	const other = "cd /etc/drover/keys && cp -p gold gold.old && head -c 64 /dev/urandom >gold"
	for _, after := range []string{"0.1", "0.3", "0.6"} {
		vm.must(t, other+"; (sleep "+after+"; systemctl kill -s KILL drover) & drover volume rekey db --old-key-file /etc/drover/keys/gold.old; wait; true")
		vm.must(t, "drover volume rekey db --old-key-file /etc/drover/keys/gold.old")
		vm.must(t, "drover volume export db | tar -xO ./f | grep -x SaysInPlain")
	}
	vm.refuses(t, "drover volume export copy | tar -t", "rekey NAME --old-key-file FILE")
	vm.must(t, "systemctl stop drover.socket drover && "+other+" && systemctl start drover.socket drover")
	vm.refuses(t, "drover doctor", "drover volume rekey db --old-key-file FILE")
	vm.must(t, "drover volume rekey db --old-key-file /etc/drover/keys/gold.old && rm /etc/drover/keys/gold.old")
	vm.must(t, "docker exec app tail -1 /data/log && docker rm -f app")
	vm.must(t, "drover snapshot restore db before && drover volume export db | tar -xO ./f | grep -x SaysInPlain")

	// The key of copy is lost. This is reported, nothing is changed, and the volume is removed without a key.
	vm.refuses(t, "drover volume rekey copy", "is key")
	vm.refuses(t, "mv /etc/drover/keys/gold /root; drover volume export db | tar -t", "restore it from your copy")
	vm.must(t, "mv /root/gold /etc/drover/keys && drover volume rm copy && drover trash purge --yes copy")
	vm.must(t, "drover volume rm db && drover trash purge --yes db && drover doctor")
	if left := vm.must(t, "dmsetup ls | grep drover; losetup -a; cat $(find /sys/fs/cgroup -name io.max) 2>/dev/null; true"); len(left) > 0 {
		t.Errorf("left are %q", left)
	}
}

// refuses runs a line of shell that must fail with a text.
func (vm *VM) refuses(t *testing.T, line, says string) {
	t.Helper()
	said, exit := vm.shell(t, "{ "+line+"; } 2>&1")
	if text := strings.Join(said, "\n"); exit == 0 || !strings.Contains(text, says) {
		t.Errorf("%s: exit %d, want %s\n%s", line, exit, says, text)
	}
}

// container returns the arguments to run a container with a volume on /data and the machine's tools.
func container(volume, more string) string {
	return "docker run --network none --stop-signal KILL --volume-driver drover -v " + volume + ":/data -v /usr:/usr:ro " + more + " tools sh -c "
}

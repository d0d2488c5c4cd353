package lab

import (
	"strings"
	"testing"

	"github.com/droverhq/drover/internal/long"
)

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

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

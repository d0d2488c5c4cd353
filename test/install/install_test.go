// Package install runs `make install` and `make uninstall`: into a folder, as a packager does, and for real, on
// copies of the folders that they change.
package install

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/droverhq/drover/test/assert"
	"github.com/droverhq/drover/test/engine"
	"github.com/droverhq/drover/test/require"
)

func TestMain(m *testing.M) { engine.Main(m) }

// top is the root of the repository, seen from this package.
const top = "../.."

// A script runs with this environment in addition to that of the tests.
func run(t *testing.T, env []string, name string, args ...string) (output string, exit int) {
	t.Helper()
	cmd := exec.Command(name, args...)
	cmd.Env = append(os.Environ(), env...)
	out, err := cmd.CombinedOutput()
	if err != nil && cmd.ProcessState == nil {
		t.Fatal(err)
	}
	return string(out), cmd.ProcessState.ExitCode()
}

func must(t *testing.T, env []string, name string, args ...string) string {
	t.Helper()
	out, exit := run(t, env, name, args...)
	if exit != 0 {
		t.Fatalf("%s %s: exit %d\n%s", name, strings.Join(args, " "), exit, out)
	}
	return out
}

func script(name string) string {
	return filepath.Join(top, "scripts", name)
}

func write(t *testing.T, path, text string) {
	t.Helper()
	require.NoError(t, os.MkdirAll(filepath.Dir(path), 0o755))
	require.NoError(t, os.WriteFile(path, []byte(text), 0o600))
}

func read(t *testing.T, path string) string {
	t.Helper()
	data, err := os.ReadFile(path)
	require.NoError(t, err)
	return string(data)
}

// tree lists the files below a folder.
func tree(t *testing.T, dir string) []string {
	t.Helper()
	out := must(t, nil, "find", dir, "-type", "f", "-printf", "/%P\n")
	files := strings.Fields(out)
	slices.Sort(files)
	return files
}

const config = `pools:
  - {name: fast, backend: loop, path: /mnt/xfs/pool}
  - name: second
    backend: dir
    path: "/mnt/two words/100%"
  # path: /mnt/unused
`

// A packager's folder gets everything that belongs to the package, and uninstall removes it. Files that the operator
// wrote stay.
func TestStaged(t *testing.T) {
	dest := t.TempDir()
	env := []string{"DESTDIR=" + dest, "PREFIX=/usr"}
	write(t, dest+"/etc/drover/drover.yaml", config)
	must(t, env, script("install.sh"))
	files := tree(t, dest)
	for _, want := range []string{
		"/usr/bin/drover", "/usr/lib/systemd/system/drover.service", "/usr/lib/systemd/system/drover.socket",
		"/usr/lib/systemd/system/drover-guard.service", "/usr/lib/systemd/system/drover-agent.service", "/usr/lib/systemd/system/drover-agent.socket", "/usr/lib/systemd/system/drover-control.service",
		"/usr/lib/sysusers.d/drover.conf", "/usr/share/man/man1/drover.1", "/usr/share/man/man1/drover-volume-create.1",
		"/usr/share/man/man5/profiles.yaml.5", "/usr/share/man/man5/drover.yaml.5",
		"/usr/share/bash-completion/completions/drover", "/usr/share/zsh/site-functions/_drover", "/usr/share/fish/vendor_completions.d/drover.fish",
		"/usr/share/doc/drover/profiles.yaml", "/usr/share/doc/drover/drover.rules.yaml",
		"/usr/share/doc/drover/drover.grafana.json", "/usr/share/drover/profiles.schema.json", "/usr/share/drover/drover.schema.json",
	} {
		if !slices.Contains(files, want) {
			t.Errorf("%s is not installed; there are %v", want, files)
		}
	}
	first, _, _ := strings.Cut(read(t, dest+"/usr/share/doc/drover/profiles.yaml"), "\n")
	if first != "# yaml-language-server: $schema=/usr/share/drover/profiles.schema.json" {
		t.Errorf("the installed profiles.yaml begins with %q", first)
	}
	dropin := read(t, dest+"/etc/systemd/system/drover.service.d/10-paths.conf")
	if agents := read(t, dest+"/etc/systemd/system/drover-agent.service.d/10-paths.conf"); agents != dropin {
		t.Errorf("the agent waits for %s", agents)
	}
	paths := regexp.MustCompile(`(?m)^RequiresMountsFor=(.*)$`).FindAllStringSubmatch(dropin, -1)
	var got []string
	for _, m := range paths {
		got = append(got, m[1])
	}
	want := []string{`"/var/lib/drover"`, `"/mnt/xfs/pool"`, `"/mnt/two words/100%%"`}
	if !slices.Equal(got, want) {
		t.Errorf("the unit waits for %v, want %v", got, want)
	}
	must(t, env, script("uninstall.sh"))
	if got := tree(t, dest); !slices.Equal(got, []string{"/etc/drover/drover.yaml"}) {
		t.Errorf("after uninstall there are %v, want the operator's file alone", got)
	}
}

// systemd itself reads the installed units.
func TestUnits(t *testing.T) {
	privateFolders(t)
	must(t, nil, script("install.sh"))
	const units = "/usr/local/lib/systemd/system/"
	out, exit := run(t, nil, "systemd-analyze", "verify", "--man=no", units+"drover.service", units+"drover.socket",
		units+"drover-agent.service", units+"drover-agent.socket", units+"drover-control.service", units+"drover-guard.service")
	if strings.Contains(out, "drover") {
		t.Errorf("systemd-analyze verify: exit %d\n%s", exit, out)
	}
	settings := func(unit string) string {
		return "\n" + regexp.MustCompile(`(?m)^#.*\n`).ReplaceAllString(read(t, units+unit), "")
	}
	bad := regexp.MustCompile(`(?m)^(Requires|Requisite|BindsTo|PartOf|Private\w*|Protect\w*|ReadOnly\w*|MountFlags|ExecStop|RootDirectory)=.*`)
	for unit, start := range map[string]string{"drover.service": "serve", "drover-agent.service": "agent"} {
		text := settings(unit)
		for _, want := range []string{"Before=docker.service", "StartLimitIntervalSec=0", "KillMode=process", "ExecStart=/usr/local/bin/drover " + start} {
			if !strings.Contains(text, "\n"+want) {
				t.Errorf("%s lacks %s", unit, want)
			}
		}
		if found := bad.FindAllString(text, -1); len(found) > 0 {
			t.Errorf("%s has %v: it would need docker, lose mounts when it stops, or hide them", unit, found)
		}
	}
	if text := settings("drover-control.service"); !strings.Contains(text, "\nExecStart=/usr/local/bin/drover control --config /etc/drover/control.yaml") {
		t.Errorf("drover-control.service: %s", text)
	}
}

// privateFolders gives this process copies of the folders that an installation changes, and hides the machine's
// systemd.
func privateFolders(t *testing.T) {
	t.Helper()
	for _, dir := range []string{"/etc", "/usr"} {
		layer := t.TempDir()
		for _, sub := range []string{"upper", "work"} {
			require.NoError(t, os.Mkdir(filepath.Join(layer, sub), 0o755))
		}
		options := "lowerdir=" + dir + ",upperdir=" + layer + "/upper,workdir=" + layer + "/work"
		mount(t, "overlay", dir, "overlay", options)
	}
	// In the copy of /etc only. Tests of other packages have programs in this folder at the same time.
	require.NoError(t, os.RemoveAll("/etc/drover"))
	folder(t, "/run/systemd")
	folder(t, "/var/lib/drover")
	// The folder stays: removing it unmounts what another test has mounted on it in another namespace (rmdir, since
	// Linux 3.18).
	require.NoError(t, os.MkdirAll("/run/drover", 0o755))
	for _, dir := range []string{"/run/systemd", "/run/drover"} {
		mount(t, "tmpfs", dir, "tmpfs", "")
	}
	image := filepath.Join(t.TempDir(), "root.img")
	must(t, nil, "truncate", "--size=6G", image)
	must(t, nil, "mkfs.ext4", "-q", image)
	must(t, nil, "mount", "-o", "loop", image, "/var/lib/drover")
	t.Cleanup(func() { detach(t, "/var/lib/drover") })
}

// folder makes a folder to mount on, if the machine has none, and removes it again.
func folder(t *testing.T, dir string) {
	t.Helper()
	switch err := os.Mkdir(dir, 0o755); {
	case err == nil:
		t.Cleanup(func() { _ = os.Remove(dir) }) // fails, and should, if it is in use by now
	case !os.IsExist(err):
		t.Fatal(err)
	}
}

func mount(t *testing.T, source, target, fstype, options string) {
	t.Helper()
	require.NoErrorf(t, unix.Mount(source, target, fstype, 0, options), "mount %s on %s", fstype, target)
	t.Cleanup(func() { detach(t, target) })
}

func detach(t *testing.T, target string) {
	t.Helper()
	assert.NoErrorf(t, unix.Unmount(target, unix.MNT_DETACH), "unmount %s", target)
}

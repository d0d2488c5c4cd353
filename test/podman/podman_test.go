package podman

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/droverhq/drover/internal/linux/mount"
	"github.com/droverhq/drover/test/host"
	"github.com/droverhq/drover/test/require"
)

// TestPodman: one Drover serves all tests that do not disturb it. During all of them, "podman volume mount" has a
// volume mounted.
func TestPodman(t *testing.T) {
	w := begin(t)
	held := w.hold(t)
	t.Run("I2 Drover is killed", w.testKilled)
	t.Run("I6 create", w.testCreate)
	t.Run("I9 two containers", w.testTwo)
	t.Run("refused mount", w.testRefusedMount)
	t.Run("reload", w.testReload)
	t.Run("I11 in use", w.testInUse)
	t.Run("I9 busy unmount", w.testBusy)
	t.Run("kube play", w.testKube)
	t.Run("I9 held", func(t *testing.T) { w.testHeld(t, held) })
	if got := w.volumes(t); len(got) > 0 {
		t.Errorf("Podman still has %v", got)
	}
	w.h.Clean(t)
	if table, err := mount.Table(); err != nil || len(table.Under(filepath.Join(w.h.Root, "mnt"))) > 0 {
		t.Errorf("mounts are left: %v, %v", table.Under(filepath.Join(w.h.Root, "mnt")), err)
	}
}

// create makes a volume that has room for the small files of these tests.
func (w *world) create(t testing.TB, name string, options ...string) {
	t.Helper()
	args := []string{"volume", "create", "--driver", driver}
	for _, o := range options {
		args = append(args, "--opt", o)
	}
	w.podman(t, append(args, name)...)
}

// start runs a container in the background, with a volume at /data, that waits to be stopped.
func (w *world) start(t testing.TB, name, volume string) {
	t.Helper()
	w.podman(t, "run", "--detach", "--name", name, "--stop-signal", "KILL", "--volume", volume+":/data", image)
}

// exec runs a command of the shell in a container.
func (w *world) exec(t testing.TB, name, command string) string {
	t.Helper()
	return w.podman(t, "exec", name, "sh", "-c", command)
}

// read has a container read the file in a volume.
func (w *world) read(t testing.TB, volume string) string {
	t.Helper()
	return w.podman(t, "run", "--rm", "--volume", volume+":/data", image, "cat", "/data/file")
}

// testCreate: options are those of Drover. A wrong option is an error, and leaves nothing in Drover or Podman.
func (w *world) testCreate(t *testing.T) {
	w.create(t, "made", "profile=silver", "size=400MiB", "owner=70:71", "mode=2750", "label.team=web")
	a, err := w.plug.Get("made")
	require.NoError(t, err)
	st := a.Volume.Status
	if st["profile"] != "silver" || st["size"] != float64(400<<20) || fmt.Sprint(st["labels"]) != "map[team:web]" {
		t.Errorf("status: %v", st)
	}
	got := w.podman(t, "volume", "inspect", "--format", "{{.Driver}} {{.Status.profile}}", "made")
	if got != driver+" silver" {
		t.Errorf("podman says %s", got)
	}
	for option, want := range map[string]string{
		"bogus=1":           `drover: unknown option "bogus"`,
		"profile=glod":      `drover: unknown profile "glod" (available: bronze, gold, silver)`,
		"size=5":            `drover: bad size "5"`,
		"size=1000TiB":      "drover: volume wrong: pool default cannot satisfy profile bronze",
		"from=nothing-here": "drover: no volume, snapshot or dataset",
		"help=":             "drover: options:",
	} {
		w.refused(t, want, "volume", "create", "--driver", driver, "--opt", option, "wrong")
	}
	w.refused(t, "drover: bad volume name", "volume", "create", "--driver", driver, "x")
	w.refused(t, "names must match", "volume", "create", "--driver", driver, "made@silver")
	if got := w.volumes(t); !slices.Equal(got, []string{"held", "made"}) {
		t.Errorf("Podman has %v", got)
	}
	if got := w.h.Volumes(t); !slices.Equal(got, []string{"held", "left", "made"}) {
		t.Errorf("Drover has %v", got)
	}
	w.podman(t, "volume", "rm", "made")
	if got := w.h.Volumes(t); slices.Contains(got, "made") {
		t.Errorf("after its removal Drover has %v", got)
	}
}

// testTwo: two containers use one volume, which is mounted until the second one ends. After a restart the data is
// there.
func (w *world) testTwo(t *testing.T) {
	w.create(t, "shared")
	w.start(t, "one", "shared")
	w.start(t, "two", "shared")
	w.exec(t, "one", "echo first > /data/file")
	if got := w.exec(t, "two", "cat /data/file"); got != "first" {
		t.Errorf("the second container reads %q", got)
	}
	w.podman(t, "restart", "--time", "0", "one")
	w.wantUses(t, "shared", 1)
	w.podman(t, "rm", "--force", "--time", "0", "one")
	w.wantUses(t, "shared", 1)
	w.exec(t, "two", "echo second >> /data/file")
	w.podman(t, "restart", "--time", "0", "two")
	if got := w.exec(t, "two", "cat /data/file"); got != "first\nsecond" {
		t.Errorf("after a restart it reads %q", got)
	}
	w.podman(t, "rm", "--force", "--time", "0", "two")
	w.wantUses(t, "shared", 0)
	if got := w.read(t, "shared"); got != "first\nsecond" {
		t.Errorf("the next container reads %q", got)
	}
	w.podman(t, "volume", "rm", "shared")
}

// testRefusedMount: a container whose volume is refused does not run, reports why, and has written nothing: Podman
// would otherwise use a folder on the root disk.
func (w *world) testRefusedMount(t *testing.T) {
	w.create(t, "gone")
	w.h.Must(t, "volume", "rm", "gone")
	const why = `drover: no such volume: "gone"`
	write := []string{"run", "--rm", "--volume", "gone:/data", image, "sh", "-c", "echo lost > /data/file"}
	w.refused(t, why, write...)
	w.create(t, "damaged")
	a, err := w.plug.Get("damaged")
	require.NoError(t, err)
	data := filepath.Join(w.h.Root, "pools", "default", "datasets", filepath.Base(a.Volume.Mountpoint))
	require.NoError(t, os.Rename(data, data+".away"))
	write[3] = "damaged:/data"
	w.refused(t, "drover: mount of volume damaged: ", write...)
	w.wantUses(t, "damaged", 0)
	require.NoError(t, os.Rename(data+".away", data))
	if got := w.podman(t, "ps", "--all", "--quiet"); got != "" {
		t.Errorf("containers are left: %s", got)
	}
	for _, name := range []string{"gone", "damaged"} {
		if _, err := os.Stat(filepath.Join(w.dir, "store", "volumes", name)); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("Podman has a folder of its own for volume %s: %v", name, err)
		}
	}
	if got := w.podman(t, "run", "--rm", "--volume", "damaged:/data", image, "ls", "/data"); got != "" {
		t.Errorf("the volume has %s", got)
	}
	w.podman(t, "volume", "rm", "damaged")
	// Podman shows no volumes at all until it has forgotten this one.
	w.refused(t, why, "volume", "ls")
	w.refused(t, why, "volume", "rm", "gone")
	if got := w.volumes(t); !slices.Equal(got, []string{"held"}) {
		t.Errorf("Podman has %v", got)
	}
}

// testReload: Podman gets a list of the names that it can use, and cannot delete a volume that only others have used.
func (w *world) testReload(t *testing.T) {
	w.h.Must(t, "volume", "create", "spelled@silver", "-o", "size=400MiB")
	if names, err := w.plug.List(); err != nil || !slices.Contains(names, "spelled@silver") {
		t.Errorf("other engines are listed %v, %v", names, err)
	}
	w.podman(t, "volume", "reload")
	if got := w.volumes(t); !slices.Equal(got, []string{"held", "left", "spelled"}) {
		t.Errorf("after a reload Podman has %v", got)
	}
	w.refused(t, "was never used by podman on node host-a", "volume", "rm", "spelled")
	w.podman(t, "run", "--rm", "--volume", "spelled:/data", image, "sh", "-c", "echo mine > /data/file")
	w.podman(t, "volume", "rm", "spelled")
	w.h.Must(t, "trash", "restore", "spelled")
	w.podman(t, "volume", "reload")
	if got := w.read(t, "spelled"); got != "mine" {
		t.Errorf("the volume has %q", got)
	}
	w.h.Must(t, "volume", "rm", "spelled")
	w.podman(t, "volume", "reload")
	if got := w.volumes(t); !slices.Equal(got, []string{"held", "left"}) {
		t.Errorf("after a removal in Drover Podman has %v", got)
	}
}

// testInUse: a request for a volume that Podman uses is refused with that reason, and with the command that finds the
// containers.
func (w *world) testInUse(t *testing.T) {
	w.create(t, "used")
	w.start(t, "user", "used")
	w.refused(t, "volume is being used", "volume", "rm", "used")
	w.h.Must(t, "snapshot", "create", "used", "--name", "before")
	const shown = "podman ps -a --filter volume=used"
	for _, args := range [][]string{{"volume", "rm", "used"}, {"snapshot", "restore", "used", "before"}} {
		r := w.h.Exec(t, args...)
		want := "it is mounted by podman (2f73349cfc46) on node host-a (stop its containers first; " + shown + " shows them; " +
			"podman volume unmount used ends a podman volume mount)"
		if r.Exit == 0 || !strings.HasSuffix(r.FirstError(), want) {
			t.Errorf("drover %v: exit %d, %s, want %s", args, r.Exit, r.Err, want)
		}
	}
	if r := w.sh(t, shown+" --format {{.Names}}"); r.out != "user\n" {
		t.Errorf("want container user: %v", r)
	}
	w.podman(t, "rm", "--force", "--time", "0", "user")
	w.h.Must(t, "snapshot", "restore", "used", "before")
	w.podman(t, "volume", "rm", "used")
}

// testBusy: an unmount of a mount that the host keeps busy is not an error for Podman. With an error, Podman would
// keep its count, and the next container would get the bare mount point.
func (w *world) testBusy(t *testing.T) {
	w.create(t, "busy")
	w.start(t, "worker", "busy")
	w.exec(t, "worker", "echo one > /data/file")
	shell, err := os.Open(w.podman(t, "volume", "inspect", "--format", "{{.Mountpoint}}", "busy"))
	require.NoError(t, err)
	defer shell.Close()
	w.podman(t, "rm", "--force", "--time", "0", "worker")
	if a, err := w.plug.Get("busy"); err != nil || len(a.Volume.Status["mounts"].([]any)) > 0 || a.Volume.Status["mounted"] != true {
		t.Errorf("after its last container, with the host in it: %v, %v", a.Volume.Status, err)
	}
	w.start(t, "next", "busy")
	w.wantUses(t, "busy", 1)
	if got := w.exec(t, "next", "cat /data/file"); got != "one" {
		t.Errorf("the next container reads %q", got)
	}
	w.podman(t, "rm", "--force", "--time", "0", "next")
	require.NoError(t, shell.Close())
	w.podman(t, "volume", "rm", "busy")
}

// testKilled: containers outlive Drover. If one ends while Drover is not running, its volume stays in use, as in
// Podman's count, until Podman learns of the end.
func (w *world) testKilled(t *testing.T) {
	w.create(t, "kept")
	w.start(t, "keeper", "kept")
	w.exec(t, "keeper", "echo one > /data/file")
	w.h.Kill9(t)
	w.exec(t, "keeper", "echo two >> /data/file")
	w.refused(t, "connection refused", "run", "--rm", "--volume", "kept:/data", image, "true")
	w.h.Up(t)
	w.wantUses(t, "kept", 1)
	w.podman(t, "restart", "--time", "0", "keeper")
	w.exec(t, "keeper", "echo three >> /data/file")
	w.h.Kill9(t)
	w.try(t, "stop", "--time", "0", "keeper")
	w.h.Up(t)
	w.wantUses(t, "kept", 1)
	w.podman(t, "start", "keeper")
	if got := w.exec(t, "keeper", "cat /data/file"); got != "one\ntwo\nthree" {
		t.Errorf("the volume has %q", got)
	}
	w.podman(t, "rm", "--force", "--time", "0", "keeper")
	w.wantUses(t, "kept", 1)
	w.podman(t, "volume", "unmount", "kept")
	w.wantUses(t, "kept", 0)
	w.podman(t, "volume", "rm", "kept")
}

// testKube: a pod uses a claim, and a volume that was made before the pod. Both outlive the pod.
func (w *world) testKube(t *testing.T) {
	const pod = `
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: claimed, annotations: {volume.podman.io/driver: drover}}
spec: {accessModes: [ReadWriteOnce], resources: {requests: {storage: 1Gi}}}
---
apiVersion: v1
kind: Pod
metadata: {name: pod}
spec:
  containers:
  - name: box
    image: localhost/box
    volumeMounts: [{name: a, mountPath: /claimed}, {name: b, mountPath: /before}]
  volumes:
  - {name: a, persistentVolumeClaim: {claimName: claimed}}
  - {name: b, persistentVolumeClaim: {claimName: before}}
`
	file := filepath.Join(w.dir, "pod.yaml")
	w.write(t, file, pod, 0o644)
	w.create(t, "before", "profile=silver")
	w.podman(t, "kube", "play", file)
	w.exec(t, "pod-box", "echo a > /claimed/file; echo b > /before/file")
	w.wantUses(t, "claimed", 1)
	w.podman(t, "kube", "down", file)
	w.wantUses(t, "claimed", 0)
	for volume, want := range map[string]string{"claimed": "a", "before": "b"} {
		if got := w.read(t, volume); got != want {
			t.Errorf("volume %s has %q, want %q", volume, got, want)
		}
		w.podman(t, "volume", "rm", volume)
	}
}

// hold mounts a volume with "podman volume mount", and has another engine mount one and end without an unmount. It
// returns the mount point of the first one.
func (w *world) hold(t *testing.T) (path string) {
	t.Helper()
	w.h.Must(t, "volume", "create", "left")
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), "PODMAN_TEST_LEAVES=left", "PODMAN_TEST_SOCKET="+w.h.Socket())
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	w.wantUses(t, "left", 1)
	w.create(t, "held")
	w.podman(t, "volume", "mount", "held")
	path = w.podman(t, "volume", "inspect", "--format", "{{.Mountpoint}}", "held")
	require.NoError(t, os.WriteFile(filepath.Join(path, "file"), []byte("held"), 0o600))
	return path
}

// mountAndEnd is the other engine: a process that mounts a volume and ends.
func mountAndEnd(name string) (status int) {
	dial := func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", os.Getenv("PODMAN_TEST_SOCKET"))
	}
	client := http.Client{Transport: &http.Transport{DialContext: dial}, Timeout: time.Minute}
	body := fmt.Appendf(nil, `{"Name":%q,"ID":"lost"}`, name)
	resp, err := client.Post("http://plugin/VolumeDriver.Mount", "", bytes.NewReader(body))
	if err != nil || resp.StatusCode != http.StatusOK {
		fmt.Println(resp, err)
		return 1
	}
	return 0
}

// testHeld: Drover takes no command of Podman for the start of another engine, and a restart of Drover ends no use by
// Podman. When Drover has removed the use of the other engine that ended, it has searched for ended uses. The volume
// of "podman volume mount", which no process needs to have open, is still mounted then.
func (w *world) testHeld(t *testing.T, path string) {
	host.Await(t, "the use of the engine that has ended is taken off", func() error {
		a, err := w.plug.Get("left")
		if err == nil && (len(a.Volume.Status["mounts"].([]any)) > 0 || a.Volume.Status["mounted"] == true) {
			err = fmt.Errorf("%v", a.Volume.Status) // its unmount follows
		}
		return err
	})
	w.wantUses(t, "left", 0)
	w.wantUses(t, "held", 1)
	if got, err := os.ReadFile(filepath.Join(path, "file")); err != nil || string(got) != "held" {
		t.Errorf("what was written: %q, %v", got, err)
	}
	w.podman(t, "volume", "unmount", "held")
	w.wantUses(t, "held", 0)
	w.podman(t, "volume", "rm", "held")
	w.h.Must(t, "volume", "rm", "left")
	w.podman(t, "volume", "reload")
}

// page returns docs/podman.md.
func page(t testing.TB) string {
	t.Helper()
	text, err := os.ReadFile("../../docs/podman.md")
	require.NoError(t, err)
	return string(text)
}

// blocks returns the blocks of the page in one language.
func blocks(t testing.TB, language string) []string {
	t.Helper()
	var all []string
	for _, m := range regexp.MustCompile("(?ms)^```"+language+"\n(.*?)^```$").FindAllStringSubmatch(page(t), -1) {
		all = append(all, m[1])
	}
	if len(all) == 0 {
		t.Fatalf("docs/podman.md shows no %s", language)
	}
	return all
}

// configuration is the file that the page has its reader write.
func configuration(t testing.TB) string {
	t.Helper()
	return blocks(t, "toml")[0]
}

// TestPage runs the commands of docs/podman.md in their order. The output of each command must be the one shown below
// it, with anything in the place of "…". A command that is shown with an error must fail.
func TestPage(t *testing.T) {
	w := begin(t)
	w.podman(t, "tag", image, "docker.io/library/redis")
	w.write(t, filepath.Join(w.dir, "web.yaml"), blocks(t, "yaml")[0], 0o644)
	commands := 0
	for _, block := range blocks(t, "console") {
		for _, c := range regexp.MustCompile(`(?m)^\$ `).Split(block, -1)[1:] {
			commands++
			line, shown, _ := strings.Cut(strings.TrimSpace(c), "\n")
			fails := regexp.MustCompile(`(?m)^(Error|drover): `).MatchString(shown)
			r := w.sh(t, line)
			if fails != (r.exit != 0) {
				t.Errorf("the page shows that it fails: %t: %v", fails, r)
			}
			for want := range strings.Lines(shown) {
				parts := strings.Split(strings.TrimSpace(want), "…")
				for i, p := range parts {
					parts[i] = regexp.QuoteMeta(p)
				}
				if !regexp.MustCompile(`(?m)^` + strings.Join(parts, ".*") + `$`).MatchString(r.out + r.err) {
					t.Errorf("the page shows %q: %v", want, r)
				}
			}
		}
	}
	if commands < 15 {
		t.Errorf("only %d commands are on the page", commands)
	}
	if got := w.podman(t, "volume", "inspect", "--format", "{{.Timeout}}", "db"); got != "60" {
		t.Errorf("Podman waits %s seconds for an answer, and docs/podman.md names another time", got)
	}
}

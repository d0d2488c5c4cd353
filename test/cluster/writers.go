package cluster

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"golang.org/x/sys/unix"

	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/test/child"
	"github.com/droverhq/drover/test/cluster/witness"
	"github.com/droverhq/drover/test/engine"
	"github.com/droverhq/drover/test/host"
	"github.com/droverhq/drover/test/require"
)

// Image is an image for containers whose program does not matter. Its volume is mounted at /data.
const Image = "drover-redis"

// Tokens is the name of the writers' file in a volume.
const Tokens = "tokens"

// Writer is a program that writes to a volume of a host until it is stopped, through a file that it opens once. On a
// host with an engine it runs in a container. Otherwise it runs beside the agent, on the path that the plugin mounted.
// Entries returns its notes.
type Writer struct {
	Host   *Host
	Volume string

	name string
	log  string
	id   string         // its mount ID, if there is no engine
	proc *child.Process // its process, if there is no engine

	lease time.Duration // as in Options
}

// StartWriter starts a writer and returns when it writes. If there is no such volume, it is created.
func (c *Cluster) StartWriter(t testing.TB, h *Host, volume string) *Writer {
	t.Helper()
	logs := filepath.Join(c.dir, "testimony")
	require.NoError(t, os.MkdirAll(logs, 0o755))
	binary, err := WriterProgram()
	require.NoError(t, err)
	name := "w-" + host.NewID()[:12]
	w := &Writer{Host: h, Volume: volume, name: name, log: filepath.Join(logs, name+".log"), id: host.NewID(),
		lease: c.opts.Lease}
	args := func(dir string) []string {
		v := h.Inspect(t, volume)
		return []string{"-file", filepath.Join(dir, Tokens), "-log", w.log, "-writer", name,
			"-dataset", v.ID.String(), "-node", h.Name, "-epoch", fmt.Sprint(v.Epoch)}
	}
	if h.Engine == nil {
		plug := h.Plug(t)
		require.NoError(t, plug.Create(volume, nil))
		var at string
		err := AwaitLease(t, c.opts.Lease, func() (err error) { at, err = plug.Mount(volume, w.id); return err })
		require.NoError(t, err)
		w.proc, err = child.Start(child.Spec{Args: h.On.Command(append([]string{binary}, args(at)...)...),
			Log: w.log + ".output"})
		require.NoError(t, err)
		t.Cleanup(func() { _ = w.proc.End(unix.SIGKILL, time.Minute) })
	} else {
		h.Docker(t, "run", "--detach", "--name", name, "--stop-signal", "KILL", "--volume-driver", h.Driver,
			"--volume", volume+":/data", "--volume", logs+":"+logs, "--volume", filepath.Dir(binary)+":/bin/writer:ro",
			"--entrypoint", "sleep", Image, "infinity")
		h.Docker(t, append([]string{"exec", "--detach", name, "/bin/writer/writer"}, args("/data")...)...)
	}
	w.AwaitProgress(t)
	return w
}

// WriterProgram builds the program of the writers once for this process, and returns its path. The program is
// static, so it runs in any container.
var WriterProgram = sync.OnceValues(func() (string, error) {
	dir, err := engine.Volatile()
	if err != nil {
		return "", err
	}
	bin := filepath.Join(dir, "witness", "writer")
	cmd := exec.Command("go", "build", "-o", bin, "github.com/droverhq/drover/test/cluster/writer")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build the writer: %w\n%s", err, out)
	}
	return bin, nil
})

// Entries returns what the writer has noted so far.
func (w *Writer) Entries(t testing.TB) []witness.Entry {
	t.Helper()
	entries, err := witness.Logs(w.log)
	if err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
	return entries
}

// AwaitProgress waits until the writer has written five tokens that it had not begun before.
func (w *Writer) AwaitProgress(t testing.TB) {
	t.Helper()
	now, err := witness.Now()
	require.NoError(t, err)
	host.Await(t, w.name+" writes on "+w.Host.Name, func() error {
		entries, err := witness.Logs(w.log)
		n := 0
		for _, e := range entries {
			if e.Begin > now && e.Err == "" {
				n++
			}
		}
		if n < 5 {
			return fmt.Errorf("%d of %d entries are new (%v)", n, len(entries), err)
		}
		return nil
	})
}

// Stop ends the writer, as docker stop ends its container, and releases the volume.
func (w *Writer) Stop(t testing.TB) {
	t.Helper()
	if w.proc == nil {
		w.Host.Docker(t, "rm", "--force", w.name)
		return
	}
	require.NoError(t, w.proc.End(unix.SIGKILL, time.Minute))
	err := AwaitLease(t, w.lease, func() error { return w.Host.Plug(t).Unmount(w.Volume, w.id) })
	require.NoError(t, err)
}

// AwaitLease repeats a request to mount or unmount a volume, until the limit at most, while the host waits for control
// to confirm the lease of the volume. Sessions are short in tests, so a busy machine or a restart of control can end
// them. The host then refuses such requests for a moment. AwaitLease logs each reason and the number of refusals.
// A test that expects such a refusal must not use AwaitLease.
func AwaitLease(t testing.TB, limit time.Duration, request func() error) error {
	t.Helper()
	start, reason := time.Now(), ""
	for refused := 0; ; refused++ {
		err := request()
		switch {
		case err == nil && refused > 0:
			t.Logf("the lease was confirmed after %s and %d refusals", time.Since(start), refused)
			return nil
		case err == nil || time.Since(start) > limit ||
			!strings.Contains(err.Error(), "is fenced") && !strings.Contains(err.Error(), "control does not respond"):
			return err
		case err.Error() != reason:
			reason = err.Error()
			t.Logf("the request is repeated for %s at most: %s", limit, reason)
		}
		time.Sleep(50 * time.Millisecond)
	}
}

// Head reads the contents of a volume by mounting it on a host.
func (c *Cluster) Head(t testing.TB, h *Host, volume string) witness.Copy {
	t.Helper()
	v := h.Inspect(t, volume)
	plug, id := h.Plug(t), host.NewID()
	var at string
	err := AwaitLease(t, c.opts.Lease, func() (err error) { at, err = plug.Mount(volume, id); return err })
	require.NoError(t, err)
	copied, err := witness.ReadFile(v.ID.String(), volume+" on "+h.Name, h.File(filepath.Join(at, Tokens)))
	require.NoError(t, err)
	require.NoError(t, AwaitLease(t, c.opts.Lease, func() error { return plug.Unmount(volume, id) }))
	return copied
}

// Check fails the test if the notes of the cluster's writers disagree with the copies (see witness.Check). The
// copies must include every dataset that the writers wrote to.
func (c *Cluster) Check(t testing.TB, copies []witness.Copy, losses ...witness.Loss) {
	t.Helper()
	entries, err := witness.Logs(filepath.Join(c.dir, "testimony", "*.log"))
	require.NoError(t, err)
	if bad := witness.Check(entries, copies, losses); len(bad) > 0 {
		t.Errorf("%d entries:\n%s", len(entries), strings.Join(bad, "\n"))
	}
}

// Epoch returns the epoch in the record beside a dataset on the host, whatever control reports.
func (h *Host) Epoch(id uuid.UUID) (epoch uint64, err error) {
	var raw []byte
	for range 100 { // the record is renamed once the dataset has arrived
		for _, state := range []string{"datasets", "copies"} {
			raw, err = os.ReadFile(h.File(filepath.Join(h.Dir, "disk", "pool", state, id.String(), "record.json")))
			if err == nil {
				var d dataset.Dataset
				err = json.Unmarshal(raw, &d)
				return d.Epoch, err
			}
		}
		time.Sleep(10 * time.Millisecond)
	}
	return 0, err
}

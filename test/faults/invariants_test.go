package faults

import (
	"errors"
	"go/parser"
	"go/token"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/test/host"
)

// Any number of concurrent identical creates make one dataset, and all succeed. The same holds for clones. Of creates
// that contradict each other, one succeeds and the others are refused.
func TestI5OneNameOneDataset(t *testing.T) {
	w := newWorld(t, host.Options{})
	w.make(t, "base", "plain", "base")
	datasets := func() int { return len(names(t, filepath.Join(w.poolPath(t, "default"), "datasets"))) }
	const n = 50
	for _, c := range []struct {
		name    string
		spec    func(i int) string
		refused func(i int) bool
	}{
		{"db", func(int) string { return "db@plain" }, func(int) bool { return false }},
		{"copy", func(int) string { return "copy@snapshot-" + w.volume(t, "base").ID.String() }, func(int) bool { return false }},
	} {
		before := datasets()
		errs := atOnce(n, func(i int) error { return w.plug.Create(c.spec(i), nil) })
		for i, err := range errs {
			if (err != nil) != c.refused(i) {
				t.Errorf("create %d of %s: %v", i, c.name, err)
			}
		}
		if got := datasets() - before; got != 1 {
			t.Errorf("%d datasets for %s", got, c.name)
		}
	}
	w.volumes["db"], w.volumes["copy"] = "", "base"

	before := datasets()
	errs := atOnce(n, func(i int) error {
		return w.plug.Create("torn", map[string]string{"profile": []string{"plain", "sized"}[i%2]})
	})
	won := w.volume(t, "torn").Profile.Name
	for i, err := range errs {
		if mine := []string{"plain", "sized"}[i%2]; (err == nil) != (mine == won) {
			t.Errorf("create %d of profile %s, where %s won: %v", i, mine, won, err)
		}
	}
	if got := datasets() - before; got != 1 {
		t.Errorf("%d datasets", got)
	}
	w.volumes["torn"] = ""

	// The creates of the engine and those of a person, at the same time.
	errs = atOnce(n, func(i int) error {
		if i%2 == 0 {
			return w.plug.Create("both", nil)
		}
		return w.submit(t, api.Request{Kind: dataset.OpCreate, Volume: "both"})
	})
	for i, err := range errs {
		if err != nil {
			t.Errorf("create %d: %v", i, err)
		}
	}
	w.volumes["both"] = ""
	w.kept(t)
	w.tidy(t)
	if got := datasets(); got != len(w.volumes) {
		t.Errorf("%d datasets for %d volumes", got, len(w.volumes))
	}
}

// atOnce calls f n times at the same moment, and returns the results.
func atOnce(n int, f func(i int) error) []error {
	errs := make([]error, n)
	var ready, done sync.WaitGroup
	ready.Add(1)
	for i := range n {
		done.Go(func() {
			ready.Wait()
			errs[i] = f(i)
		})
	}
	ready.Done()
	done.Wait()
	return errs
}

// A volume in use is not restored, deleted or purged, whoever asks: the error names the node and the mount IDs. An
// unused volume can be.
func TestI11InUse(t *testing.T) {
	for _, pool := range []string{"xfs", "dir"} {
		t.Run(pool, func(t *testing.T) {
			w := newWorld(t, host.Options{Pool: pool})
			w.make(t, "base", "plain", "base")
			w.snapshot(t, "base", "first")
			w.use(t, "base")
			id := w.volume(t, "base").ID.String()
			for what, err := range map[string]error{
				"remove by the engine": w.plug.Remove("base"),
				"delete":               w.submit(t, api.Request{Kind: dataset.OpDelete, Volume: "base"}),
				"delete by UUID":       w.submit(t, api.Request{Kind: dataset.OpDelete, Volume: id, Force: true}),
				"restore":              w.submit(t, api.Request{Kind: dataset.OpRestore, Volume: "base", Snapshot: "first"}),
			} {
				t.Run(what, func(t *testing.T) { w.says(t, err, "base", "host-a", userID[:12], "stop its containers") })
			}
			// It cannot be mounted for two different uses unless both are named.
			other := host.NewID()
			_, err := w.plug.Mount("base", other)
			w.ok(t, err)
			w.says(t, w.plug.Remove("base"), userID[:12], other[:12])
			w.release(t, "base")
			w.says(t, w.plug.Remove("base"), other[:12])
			w.ok(t, w.plug.Unmount("base", other))
			w.kept(t)
			w.ok(t, w.submit(t, api.Request{Kind: dataset.OpRestore, Volume: "base", Snapshot: "first"}))
			w.kept(t)
			w.ok(t, w.plug.Remove("base"))
			w.forget("base")
			w.trash["base"] = "base"
			w.kept(t)
			w.tidy(t)
		})
	}
}

// Nothing of the plugin or the agent can call the engine, because neither imports a client of it. With an engine that
// answers nobody, the whole protocol is served.
func TestI10NoCallsToTheEngine(t *testing.T) {
	for _, dir := range []string{"plugin", "agent", "control", "backends"} {
		err := filepath.WalkDir(filepath.Join("..", "..", dir), func(path string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
				return err
			}
			f, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.ImportsOnly)
			if err != nil {
				return err
			}
			for _, i := range f.Imports {
				name, err := strconv.Unquote(i.Path.Value)
				if err != nil {
					return err
				}
				for _, client := range []string{"github.com/moby/", "github.com/docker/docker", "github.com/docker/cli", "cmd/drover"} {
					if strings.Contains(name, client) && !strings.HasPrefix(name, "github.com/moby/sys/") {
						t.Errorf("%s imports %s", path, name)
					}
				}
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}

	hung := hangingEngine(t)
	w := newWorld(t, host.Options{Env: []string{"DOCKER_HOST=unix://" + hung.Addr().String()}})
	start, before := time.Now(), hung.asked()
	w.ok(t, w.plug.Activate())
	w.make(t, "base", "plain", "base")
	w.snapshot(t, "base", "first")
	w.kept(t)
	if _, err := w.plug.Get("base"); err != nil {
		t.Error(err)
	}
	w.ok(t, w.plug.Remove("base"))
	w.forget("base")
	w.trash["base"] = "base"
	w.tidy(t)
	if took := time.Since(start); took > 20*time.Second { // the limit of a call is 25 s
		t.Errorf("it took %s", took)
	}
	// The code that asks the engine from time to time, for facts, does not delay any request.
	if n, most := hung.asked()-before, 1+int(time.Since(start)/(15*time.Second)); n > most {
		t.Errorf("the engine was called %d times while requests were served, %d at most for facts", n, most)
	}
}

// hanging accepts connections and never answers.
type hanging struct {
	net.Listener
	mu    sync.Mutex
	conns []net.Conn
}

// hangingEngine is the socket of an engine at every usual place.
func hangingEngine(t *testing.T) *hanging {
	t.Helper()
	l, err := net.Listen("unix", filepath.Join("/run/docker", "hung.sock"))
	if err != nil {
		t.Fatal(err)
	}
	h := &hanging{Listener: l}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			h.mu.Lock()
			h.conns = append(h.conns, c)
			h.mu.Unlock()
		}
	})
	t.Cleanup(func() {
		l.Close()
		wg.Wait()
		for _, c := range h.conns {
			c.Close()
		}
	})
	return h
}

func (h *hanging) asked() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return len(h.conns)
}

// Files that Drover writes can be read only by root, except those that others must see. The contents of volumes
// appear in no log, record or argument vector.
func TestI12Secrets(t *testing.T) {
	const secret = "hunter2-is-the-password"
	w := newWorld(t, host.Options{Config: "labels: {rack: b}\n", Env: []string{"DB_PASSWORD=" + secret}})
	w.make(t, "base", "plain", secret)
	w.snapshot(t, "base", "first")
	from := filepath.Join(w.h.Dir, "from")
	w.ok(t, os.Mkdir(from, 0o700))
	w.ok(t, fill(from, secret))
	w.ok(t, w.submit(t, api.Request{Kind: dataset.OpImport, Volume: "imported", Path: from}))
	w.volumes["imported"] = secret
	w.use(t, "base")
	w.h.Restart(t)

	cmdline := readFile(t, filepath.Join("/proc", strconv.Itoa(w.h.PID()), "cmdline"))
	for what, text := range map[string]string{
		"the log": w.h.Log(), "an argument vector": string(cmdline),
		"the store":         string(readFile(t, filepath.Join(w.h.Root, "store.db"))),
		"the agent's state": string(readFile(t, filepath.Join(w.h.Root, "agent.db"))),
		"doctor":            w.h.Exec(t, "doctor").Out, "events": w.h.Must(t, "events"),
		"a volume's record": w.h.Must(t, "volume", "inspect", "base"),
	} {
		if strings.Contains(text, secret) {
			t.Errorf("%s holds what only a volume does", what)
		}
	}
	for _, dir := range []string{w.h.Root, filepath.Join(w.h.Dir, "run")} {
		w.closed(t, dir)
	}
	st, err := os.Lstat(w.h.Socket())
	w.ok(t, err)
	if st.Mode().Perm() != 0o660 {
		t.Errorf("%s has mode %o", w.h.Socket(), st.Mode().Perm())
	}
	w.release(t, "base")
}

// closed fails if others can read or write something below dir that they can reach.
func (w *world) closed(t testing.TB, dir string) {
	t.Helper()
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		st, err := d.Info()
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil {
			return err
		}
		mode := st.Mode().Perm()
		switch {
		case d.IsDir() && mode&0o077 == 0:
			return fs.SkipDir // what is below cannot be reached
		case d.IsDir() && mode&0o022 != 0:
			t.Errorf("others can write into %s (%o)", path, mode)
		case st.Mode()&fs.ModeSocket != 0 && mode&0o007 != 0:
			t.Errorf("everybody can speak to %s (%o)", path, mode)
		case st.Mode().IsRegular() && mode&0o077 != 0:
			t.Errorf("others can read %s (%o)", path, mode)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// Two epochs of a dataset are never open at the same time: after a rebuild gave the dataset a new epoch, a request of
// an older one is refused and does nothing.
func TestI1OldEpoch(t *testing.T) {
	w := newWorld(t, host.Options{})
	w.make(t, "base", "plain", "base")
	w.snapshot(t, "base", "first")
	w.write(t, "base", "later")
	before := w.volume(t, "base")
	w.h.Kill9(t)
	// A restore is in progress when the store is lost, and the store is rebuilt.
	w.h.Up(t, "DROVER_STEP=restore.begin", "DROVER_STEP_DO=hold:"+w.held())
	answered := make(chan error, 1)
	go func() {
		answered <- w.submit(t, api.Request{Kind: dataset.OpRestore, Volume: "base", Snapshot: "first"})
	}()
	host.Await(t, "drover comes to the step", func() error {
		_, err := os.Stat(w.held())
		return err
	})
	old := readFile(t, filepath.Join(w.h.Root, "store.db"))
	w.h.Kill9(t)
	if err := <-answered; err == nil {
		t.Error("a restore that was cut short was acknowledged")
	}
	w.ok(t, os.Remove(w.held()))
	w.ok(t, os.Remove(filepath.Join(w.h.Root, "store.db")))
	w.h.Up(t)
	w.h.Must(t, "store", "recover", "--from-pools")
	after := w.volume(t, "base")
	if after.Epoch <= before.Epoch || after.ID != before.ID {
		t.Errorf("epoch %d, then %d", before.Epoch, after.Epoch)
	}
	w.kept(t)
	// The old store is put back, with its restore still pending at the old epoch.
	w.h.Stop(t)
	w.ok(t, os.WriteFile(filepath.Join(w.h.Root, "store.db"), old, 0o600))
	w.h.Up(t)
	restored := func() dataset.OpState {
		t.Helper()
		var ops []dataset.Operation
		w.h.JSON(t, &ops, "operation", "ls")
		i := slices.IndexFunc(ops, func(op dataset.Operation) bool { return op.Kind == dataset.OpRestore })
		if i < 0 {
			t.Fatalf("operations: %+v, want a restore", ops)
		}
		return ops[i].State
	}
	if got := restored(); got.Final() {
		t.Errorf("a restore that an older store names is %s before that is believed", got)
	}
	w.holds(t, "base", "later")
	w.h.Must(t, "store", "recover", "--from-pools")
	w.settled(t)
	if got := restored(); got != dataset.OpFailed {
		t.Errorf("the restore is %s, want failed", got)
	}
	w.holds(t, "base", "later")
	if again := w.volume(t, "base"); again.Epoch <= after.Epoch {
		t.Errorf("epoch %d, then %d", after.Epoch, again.Epoch)
	}
	w.h.Restart(t)
	w.kept(t)
	w.tidy(t)
}

package faults

import (
	"errors"
	"go/parser"
	"go/token"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/test/host"
	"github.com/droverhq/drover/test/require"
)

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
		require.NoError(t, err)
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
	require.NoError(t, err)
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
	require.NoError(t, err)
}

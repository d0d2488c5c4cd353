package engine_test

import (
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/droverhq/drover/test/engine"
)

func TestMain(m *testing.M) { engine.Main(m) }

// One engine serves all tests that do not disturb it.
func TestEngine(t *testing.T) {
	e := engine.Start(t, engine.Options{})
	for _, db := range engine.Databases() {
		t.Run(db.Image, func(t *testing.T) { testDatabase(t, e, db) })
	}
	t.Run("docker", func(t *testing.T) { testResult(t, e) })
	t.Run("compose", func(t *testing.T) { testCompose(t, e) })
	t.Run("nothing of the machine is seen", func(t *testing.T) { testIsolation(t, e) })
}

// The database starts on an empty volume, gives it to its user, stops when asked, and finds its data again in another
// container.
func testDatabase(t *testing.T, e *engine.Engine, db engine.Database) {
	write, read, want := "CREATE DATABASE t1", "SHOW DATABASES LIKE 't1'", "t1"
	owner := "999"
	switch db.Image {
	case "drover-postgres":
		read, owner = "SELECT datname FROM pg_database WHERE datname = 't1'", "997"
	case "drover-redis":
		write, read, owner = "SET key t1", "GET key", "998"
	}
	mount := db.Image + ":" + db.DataDir
	first, second := db.Image+"-first", db.Image+"-second"
	e.Must(t, "run", "--detach", "--name", first, "--volume", mount, db.Image)
	db.Await(t, e, first)
	db.Query(t, e, first, write)
	if got := e.Must(t, "exec", first, "stat", "--format=%u", db.DataDir); got != owner {
		t.Errorf("%s belongs to user %s, want %s", db.DataDir, got, owner)
	}
	e.Must(t, "stop", first)
	if got := e.Must(t, "inspect", "--format", "{{.State.ExitCode}}", first); got != "0" {
		t.Errorf("the database ended with exit status %s, want 0", got)
	}
	e.Must(t, "run", "--detach", "--name", second, "--volume", mount, db.Image)
	db.Await(t, e, second)
	if got := db.Query(t, e, second, read); got != want {
		t.Errorf("%s after a restart: got %q, want %q", read, got, want)
	}
}

func testResult(t *testing.T, e *engine.Engine) {
	r := e.Docker(t, "run", "--rm", "drover-redis", "sh", "-c", "echo out; echo err >&2; exit 3")
	// Messages of an engine about a host that forwards no packets, which is the host's choice.
	r.Stderr = strings.TrimPrefix(r.Stderr, "WARNING: IPv4 forwarding is disabled. Networking will not work.\n")
	if r.Stdout != "out\n" || r.Stderr != "err\n" || r.Exit != 3 {
		t.Errorf("got %+v, want out, err and exit status 3", r)
	}
}

func testCompose(t *testing.T, e *engine.Engine) {
	dir := t.TempDir()
	file := `
services:
  cache:
    image: drover-redis
    network_mode: none
    volumes: ["data:/data"]
volumes:
  data: {name: composed}
`
	if err := os.WriteFile(filepath.Join(dir, "compose.yaml"), []byte(file), 0o600); err != nil {
		t.Fatal(err)
	}
	compose := func(args ...string) string {
		t.Helper()
		r := e.Compose(t, dir, append([]string{"--project-name", "smoke"}, args...)...)
		if r.Exit != 0 {
			t.Fatalf("exit %d: %v", r.Exit, r)
		}
		return r.Stdout
	}
	if got := compose("version", "--short"); !strings.HasPrefix(strings.TrimPrefix(got, "v"), "2.40.") {
		t.Errorf("compose version %q, want 2.40", got)
	}
	compose("up", "--detach")
	engine.Redis().Await(t, e, "smoke-cache-1")
	if got := e.Must(t, "volume", "ls", "--quiet", "--filter", "name=composed"); got != "composed" {
		t.Errorf("volumes after up: %q, want composed", got)
	}
	compose("down", "--volumes")
	if got := e.Must(t, "volume", "ls", "--quiet", "--filter", "name=composed"); got != "" {
		t.Errorf("volumes after down --volumes: %q, want none", got)
	}
}

func testIsolation(t *testing.T, e *engine.Engine) {
	if got := e.Must(t, "info", "--format", "{{json .Plugins.Volume}}"); got != `["local"]` {
		t.Errorf("volume plugins: %s, want local alone", got)
	}
	entries, err := os.ReadDir("/run/docker/plugins")
	if err != nil || len(entries) != 0 {
		t.Errorf("plugin sockets: %v, %v, want none", entries, err)
	}
}

// After kill -9 a container with restart policy always is started again; also after Stop and Up.
func TestKill9AndRestart(t *testing.T) {
	e := engine.Start(t, engine.Options{})
	e.Must(t, "run", "--detach", "--name", "db", "--restart", "always", "drover-redis")
	engine.Redis().Await(t, e, "db")
	e.Kill9(t)
	if e.Running() || e.PID() != 0 {
		t.Fatal("the engine runs after kill -9")
	}
	e.Up(t)
	awaitRunning(t, e, "db")
	e.Restart(t)
	awaitRunning(t, e, "db")
}

func TestLiveRestoreKeepsContainers(t *testing.T) {
	e := engine.Start(t, engine.Options{LiveRestore: true})
	e.Must(t, "run", "--detach", "--name", "db", "drover-redis")
	started := e.Must(t, "inspect", "--format", "{{.State.Pid}}", "db")
	e.Kill9(t)
	e.Up(t)
	if got := e.Must(t, "inspect", "--format", "{{.State.Pid}}", "db"); got != started {
		t.Errorf("the container is process %s, want %s as before", got, started)
	}
}

func TestPorts(t *testing.T) {
	e := engine.Start(t, engine.Options{Ports: true})
	e.Must(t, "run", "--detach", "--name", "db", "--publish", "127.0.0.1::6379", "drover-redis")
	engine.Redis().Await(t, e, "db")
	conn, err := net.DialTimeout("tcp", e.Must(t, "port", "db", "6379"), 10*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := conn.Write([]byte("PING\r\n")); err != nil {
		t.Fatal(err)
	}
	answer := make([]byte, 7)
	if _, err := conn.Read(answer); err != nil || string(answer) != "+PONG\r\n" {
		t.Errorf("answer through the published port: %q, %v", answer, err)
	}
}

// Whatever a test leaves running or dead, nothing of its engine is left.
func TestCleanup(t *testing.T) {
	var e *engine.Engine
	var container string
	started := t.Run("engine", func(t *testing.T) {
		e = engine.Start(t, engine.Options{})
		container = e.Must(t, "run", "--detach", "--restart", "always", "drover-redis")
		e.Kill9(t)
	})
	if !started {
		t.FailNow()
	}
	if _, err := os.Stat(e.Dir); !os.IsNotExist(err) {
		t.Errorf("%s is still there: %v", e.Dir, err)
	}
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil || strings.Contains(string(mounts), e.Dir) {
		t.Errorf("mounts are left: %v\n%s", err, mounts)
	}
	groups, err := filepath.Glob("/sys/fs/cgroup/*/drover-test-*/" + container)
	if err != nil || len(groups) != 0 {
		t.Errorf("cgroups are left: %v, %v", groups, err)
	}
	lines, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		t.Fatal(err)
	}
	for _, line := range lines {
		if args, err := os.ReadFile(line); err == nil && strings.Contains(string(args), e.Dir) {
			t.Errorf("a process is left: %q", args)
		}
	}
}

// awaitRunning polls until the container runs: the engine starts it after the engine has begun to answer.
func awaitRunning(t *testing.T, e *engine.Engine, container string) {
	t.Helper()
	engine.Redis().Await(t, e, container)
}

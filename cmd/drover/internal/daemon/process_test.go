package daemon

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/sirupsen/logrus"
	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"github.com/droverhq/drover/cmd/drover/internal/cli"
	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/control/api/client"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/clock"
	"github.com/droverhq/drover/internal/pki"
	testconsul "github.com/droverhq/drover/test/consul"
	"github.com/droverhq/drover/test/fakes"
	"github.com/droverhq/drover/test/golden"
	"github.com/droverhq/drover/test/require"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// SIGHUP does not end a process that has no profiles to reload, such as drover agent: it would end this test.
func TestHangupDoesNotEndAgent(t *testing.T) {
	config := filepath.Join(t.TempDir(), "drover.yaml")
	require.NoError(t, os.WriteFile(config, nil, 0o600))
	a := &cli.App{Getenv: func(string) string { return "" }, Out: io.Discard, ErrOut: io.Discard}
	f := Flags{config: config, node: "host-a", logFormat: "text", Level: "info"}
	served := false
	err := runProcess(t.Context(), a, f, func(ctx context.Context, _ Options) error {
		runtime.LockOSThread() // the signal is delivered to this thread, before the call returns
		defer runtime.UnlockOSThread()
		served = true
		return unix.Tgkill(os.Getpid(), unix.Gettid(), unix.SIGHUP)
	})
	if err != nil || !served {
		t.Errorf("served %t: %v", served, err)
	}
}

// The lock of a root must be a file in the root. A symbolic link to another file is refused.
func TestLockThatIsALink(t *testing.T) {
	root, away := t.TempDir(), filepath.Join(t.TempDir(), "precious")
	require.NoError(t, errors.Join(os.WriteFile(away, []byte("precious"), 0o600), os.Symlink(away, filepath.Join(root, hostLock))))
	if _, err := lockRoot(root, hostLock); !errors.Is(err, unix.ELOOP) {
		t.Errorf("got %v", err)
	}
	if raw, err := os.ReadFile(away); err != nil || string(raw) != "precious" {
		t.Errorf("%q, %v", raw, err)
	}
}

// pauses is a clock whose pauses the test ends.
type pauses struct {
	clock.System
	begun chan time.Duration
	end   chan time.Time
}

func (p pauses) After(d time.Duration) <-chan time.Time {
	p.begun <- d
	return p.end
}

// TestMemoryLimitFollowsVolumes: the limit grows with the number of volumes, ends with the context, and is not touched
// if an operator has set one.
func TestMemoryLimitFollowsVolumes(t *testing.T) {
	before := debug.SetMemoryLimit(-1)
	t.Cleanup(func() { debug.SetMemoryLimit(before) })
	c := pauses{begun: make(chan time.Duration), end: make(chan time.Time)}
	ctx, stop := context.WithCancel(t.Context())
	ended, volumes := make(chan struct{}), 0
	go func() { defer close(ended); boundMemory(ctx, c, func() int { return volumes }, func() {}) }()
	for _, n := range []int{100, 30_000} {
		if got, want := <-c.begun, memoryPause; got != want {
			t.Errorf("pause %s, want %s", got, want)
		}
		volumes = n
		c.end <- time.Time{}
	}
	<-c.begun
	if got, want := debug.SetMemoryLimit(-1), int64(40<<20+30_000*4<<10); got != want {
		t.Errorf("30000 volumes: limit %d, want %d", got, want)
	}
	stop()
	<-ended
	debug.SetMemoryLimit(before)
	t.Setenv("GOMEMLIMIT", "1GiB")
	ctx, stop = context.WithCancel(t.Context())
	ended = make(chan struct{})
	go func() {
		defer close(ended)
		boundMemory(ctx, c, func() int { t.Error("the volumes are counted"); return 0 }, func() {})
	}()
	<-c.begun
	stop()
	<-ended
	if got := debug.SetMemoryLimit(-1); got != before {
		t.Errorf("with GOMEMLIMIT set: limit %d, want %d", got, before)
	}
}

// TestMemoryIsReleasedOnceAfterWork: memory is released when the daemon is quiet after work, and not again until it has
// worked again and a minute has passed.
func TestMemoryIsReleasedOnceAfterWork(t *testing.T) {
	const mib = 1 << 20
	var q quietness
	for i, step := range []struct {
		allocated uint64
		seconds   time.Duration
		released  bool
	}{
		{100 * mib, 0, false},             // the start of the daemon
		{100*mib + 1000, 2, true},         // quiet
		{100*mib + 2000, 4, false},        // still quiet: there is no new garbage
		{103 * mib, 6, false},             // a little work
		{103*mib + 1000, 8, false},        // too little to release
		{140 * mib, 10, false},            // a long list
		{140*mib + quietBytes, 12, false}, // quiet again, but the last release was ten seconds ago
		{140*mib + quietBytes, 61, false}, // a minute has not passed
		{140*mib + quietBytes, 62, true},  // a minute has passed
		{149*mib + quietBytes, 64, false}, // work
		{149*mib + quietBytes, 200, true}, // quiet again
	} {
		if got := q.becomesQuiet(step.allocated, step.seconds*time.Second); got != step.released {
			t.Errorf("step %d, %d bytes allocated: released %t, want %t", i, step.allocated, got, step.released)
		}
	}
}

// TestPage compares the page of metrics with the code.
func TestPage(t *testing.T) { golden.Check(t, "../../../../docs/metrics.md", Markdown()) }

// TestNames checks the rules of Prometheus for names, and that labels are in the order in which they are exposed.
func TestNames(t *testing.T) {
	units := []string{"bytes", "seconds"}
	names := map[string]bool{}
	for _, f := range Families() {
		if names[f.name] {
			t.Errorf("%s is declared twice", f.name)
		}
		names[f.name] = true
		base := strings.TrimSuffix(f.name, "_total")
		if (base != f.name) != (f.kind == counter) {
			t.Errorf("%s is a %s: _total is the end of counters, and only of counters", f.name, f.kind)
		}
		end := base[strings.LastIndex(base, "_")+1:]
		if f.unit != "" && end != f.unit || f.unit == "" && slices.Contains(units, end) {
			t.Errorf("%s has the unit %q", f.name, f.unit)
		}
		if f.kind == histogram && f.unit != "seconds" || f.unit != "" && !slices.Contains(units, f.unit) {
			t.Errorf("%s: want a base unit, got %q", f.name, f.unit)
		}
		if !slices.IsSorted(f.labels) {
			t.Errorf("%s: the labels %v are not in order", f.name, f.labels)
		}
		if !strings.HasSuffix(f.help, ".") {
			t.Errorf("%s: the help is no sentence: %s", f.name, f.help)
		}
	}
}

// A host joins with a token from the socket of control, works, and is refused after it was removed. The audit log names
// who made these changes.
func TestJoinAndLeave(t *testing.T) {
	l := newLab(t)
	servers := testconsul.Start(t, testconsul.Options{})
	c := l.control("c1", servers.Addresses())
	l.start(Control, c)
	root, err := client.New("unix://" + filepath.Join(c.Run, "control.sock"))
	require.NoError(t, err)
	defer root.Close()
	token, err := root.MakeToken(t.Context(), api.NewToken{})
	require.NoError(t, err)
	a := l.agent("a", c)
	require.NoError(t, os.RemoveAll(filepath.Join(a.Root, "tls")))
	if err := Agent(t.Context(), a); !errors.Is(err, dataset.ErrNotFound) || !strings.Contains(err.Error(), "start the agent with --join") {
		t.Fatal(err)
	}
	a.Join = token.Token
	r := l.start(Agent, a)
	nodes, err := root.NodeList(t.Context(), "")
	if err != nil || len(nodes) != 1 || nodes[0].Name != "a" || len(nodes[0].Pools) != 1 {
		t.Fatalf("%+v, %v", nodes, err)
	}
	r.end(t)
	r = l.start(Agent, a) // the same flag does not make it join again
	local, err := client.New("unix://" + filepath.Join(a.Run, "drover.sock"))
	require.NoError(t, err)
	defer local.Close()
	if _, err := local.Volumes(t.Context(), api.Page{}); err != nil {
		t.Error(err)
	}
	if _, err := local.MakeToken(t.Context(), api.NewToken{}); !errors.Is(err, dataset.ErrUnsupported) {
		t.Error("a host makes tokens:", err)
	}
	if _, err := root.RemoveNode(t.Context(), "a", api.NodeRemoval{}); err != nil {
		t.Fatal(err)
	}
	if _, err := local.Volumes(t.Context(), api.Page{}); !errors.Is(err, dataset.ErrRemoved) || !strings.Contains(err.Error(), "was removed from the cluster at") {
		t.Error(err)
	}
	r.end(t)
	log, err := os.ReadFile(filepath.Join(c.Root, "audit.log"))
	if err != nil || strings.Contains(string(log), token.Token) {
		t.Fatal(err)
	}
	for _, want := range []string{`"who":"local uid 0","from":"uid 0","what":"make-token"`, `"what":"join"`, `"what":"register-node"`, `"what":"remove-node","node":"a"`} {
		if !strings.Contains(string(log), want) {
			t.Errorf("no %s in\n%s", want, log)
		}
	}
}

// A peer is verified again at each request, because a connection can last longer than its certificate is valid.
func TestPeerIDLooksAgain(t *testing.T) {
	now := time.Date(2026, 3, 4, 5, 6, 7, 0, time.UTC)
	ca, err := pki.Create(filepath.Join(t.TempDir(), "ca"), now)
	require.NoError(t, err)
	pair := func(id pki.Identity) *pki.Pair {
		p, err := ca.Issue(id, now)
		require.NoError(t, err)
		return p
	}
	a := pki.Identity{Kind: pki.Node, Node: uuid.New(), Name: "a"}
	clk, removed := fakes.NewClock(now), false
	own := pki.NewCredentials(pair(pki.Identity{Kind: pki.Node, Node: uuid.New(), Name: "b"}), clk, func(pki.Identity, *x509.Certificate) error {
		if removed {
			return dataset.Errorf(dataset.ErrForbidden, "node a was removed")
		}
		return nil
	})
	who := peerID(own)
	asks := func(p *pki.Pair) *http.Request {
		return &http.Request{TLS: &tls.ConnectionState{PeerCertificates: p.Chain}}
	}
	r := asks(pair(a))
	if id, err := who(r); err != nil || id != a.Node {
		t.Fatal(id, err)
	}
	removed = true
	if _, err := who(r); !errors.Is(err, dataset.ErrForbidden) {
		t.Error("removed:", err)
	}
	removed = false
	if id, err := who(r); err != nil || id != a.Node {
		t.Error(id, err)
	}
	clk.Advance(31 * 24 * time.Hour)
	if _, err := who(r); !errors.Is(err, dataset.ErrForbidden) {
		t.Error("expired:", err)
	}
	clk.Advance(-31 * 24 * time.Hour)
	for name, r := range map[string]*http.Request{"an operator": asks(pair(pki.Identity{Kind: pki.Operator, Role: pki.Admin, Name: "bob"})), "nobody": {TLS: &tls.ConnectionState{}}, "plain": {}} {
		if _, err := who(r); !errors.Is(err, dataset.ErrForbidden) {
			t.Error(name, err)
		}
	}
}

const (
	goodProfiles  = "default: plain\nprofiles: {plain: {}}\n"
	otherProfiles = "default: plain\nprofiles: {plain: {}, gold: {size: 1GiB}}\n"
	badProfiles   = "default: plain\nprofiles: {plain: {sise: 1GiB}}\n"
)

// A file of profiles that changes after it was loaded is noticed without a reload, and the finding ends with the mend.
// Nothing but a reload loads the change.
func TestProfilesFileThatChanges(t *testing.T) {
	path := filepath.Join(t.TempDir(), "profiles.yaml")
	clk := fakes.NewClock(time.Now())
	log := logrus.New()
	log.SetOutput(io.Discard)
	write := func(text string) func() error {
		return func() error { return os.WriteFile(path, []byte(text), 0o600) }
	}
	require.NoError(t, write(goodProfiles)())
	p, err := loadProfilesFile(path, clk, log)
	require.NoError(t, err)
	reload := func() error { p.reload(); return nil }
	nothing := func() error { return nil }
	for i, c := range []struct {
		do          func() error
		later       time.Duration // before the look
		level, want string        // of the finding; "" without one
		names       string        // of the loaded profiles
	}{
		{nothing, 0, "", "", "plain"},
		{write(goodProfiles + "# a comment\n"), changeSettles, "", "", "plain"},
		{func() error { return os.Remove(path) }, 0, "error", "the file was removed, so the next start will fail", "plain"},
		{nothing, lookEvery, "error", "the file was removed", "plain"},
		{write(goodProfiles), 0, "", "", "plain"},
		{write(badProfiles), 0, "error", "the file cannot be loaded any more, so the next start will fail", "plain"},
		{func() error { return os.Remove(path) }, 0, "error", "the file was removed", "plain"},
		{func() error { return os.Mkdir(path, 0o700) }, 0, "error", "is a directory", "plain"},
		{func() error { return os.Remove(path) }, 0, "error", "the file was removed", "plain"},
		{write(goodProfiles), 0, "", "", "plain"},
		{write(otherProfiles), 0, "", "", "plain"},
		{nothing, changeSettles, "warning", "has changed since it was loaded", "plain"},
		{reload, 0, "", "", "gold plain"},
		{write(badProfiles), 0, "error", "cannot be loaded any more", "gold plain"},
		{reload, 0, "error", "reload failed; keeping previous profiles", "gold plain"},
		{nothing, lookEvery, "error", "reload failed; keeping previous profiles", "gold plain"},
		{write(otherProfiles), 0, "", "", "gold plain"},
		{write(badProfiles), changeSettles, "error", "cannot be loaded any more", "gold plain"},
		{write(goodProfiles), changeSettles, "warning", "has changed since it was loaded", "gold plain"},
		{reload, 0, "", "", "plain"},
	} {
		require.NoError(t, c.do())
		p.look() // as soon as the change
		clk.Advance(c.later)
		p.look()
		got := p.findings()
		switch {
		case c.want == "" && len(got) == 0:
		case len(got) == 1 && c.want != "" && got[0].Level == c.level && strings.Contains(got[0].Text, c.want) && got[0].Fix != "":
		default:
			t.Errorf("step %d: %+v, want %s %q", i, got, c.level, c.want)
		}
		if names := strings.Join(p.set.Load().Names(), " "); names != c.names {
			t.Errorf("step %d: loaded are %s, want %s", i, names, c.names)
		}
	}
	if len(p.reread) != 1 {
		t.Error("a reload was not notified")
	}
}

// watch looks at the file every five seconds.
func TestProfilesFileIsWatched(t *testing.T) {
	path := filepath.Join(t.TempDir(), "profiles.yaml")
	require.NoError(t, os.WriteFile(path, []byte(goodProfiles), 0o600))
	clk := fakes.NewClock(time.Now())
	log := logrus.New()
	log.SetOutput(io.Discard)
	p, err := loadProfilesFile(path, clk, log)
	require.NoError(t, err)
	defer p.watch(t.Context())()
	require.NoError(t, os.Remove(path))
	for end := time.Now().Add(10 * time.Second); len(p.findings()) == 0; {
		if time.Now().After(end) {
			t.Fatal("the removed file is not noticed")
		}
		clk.Advance(lookEvery)
		time.Sleep(time.Millisecond)
	}
}

// TestFormats logs an entry in each format.
func TestFormats(t *testing.T) {
	const fields = ` error="no such disk" op=7`
	for format, want := range map[string]string{
		Text:    `^\d{4}-\d\d-\d\dT\S+ WARNING restore\\nfailed` + fields + "\n$",
		Journal: `^<4>restore\\nfailed` + fields + "\n$",
		Syslog:  `^<28>1 \d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}(Z|[+-]\d\d:\d\d) \S+ drover \d+ - - restore\\nfailed` + fields + "\n$",
		JSON:    `"level":"warning","msg":"restore\\nfailed"`,
	} {
		log, err := NewLogger("info", format, func(string) string { return "" })
		require.NoError(t, err)
		var b strings.Builder
		log.SetOutput(&b)
		log.WithError(errors.New("no such disk")).WithField("op", 7).Warn("restore\nfailed")
		if !regexp.MustCompile(want).MatchString(b.String()) {
			t.Errorf("%s: got %q, want %s", format, b.String(), want)
		}
	}
	for _, bad := range [][2]string{{"info", "xml"}, {"loud", Text}} {
		if _, err := NewLogger(bad[0], bad[1], os.Getenv); !errors.Is(err, dataset.ErrInvalid) {
			t.Errorf("%v: %v", bad, err)
		}
	}
}

// TestSeverity: each level has the number of syslog(3).
func TestSeverity(t *testing.T) {
	for level, want := range map[logrus.Level]int{
		logrus.FatalLevel: 2, logrus.ErrorLevel: 3, logrus.WarnLevel: 4, logrus.InfoLevel: 6, logrus.DebugLevel: 7,
	} {
		if got := severity(level); got != want {
			t.Errorf("%s: %d, want %d", level, got, want)
		}
	}
}

// TestDetect: a file is the journal only if the variable names it.
func TestDetect(t *testing.T) {
	f, err := os.Create(filepath.Join(t.TempDir(), "log"))
	require.NoError(t, err)
	defer f.Close()
	var st unix.Stat_t
	require.NoError(t, unix.Fstat(int(f.Fd()), &st))
	for stream, want := range map[string]string{
		"": Text, "1:2": Text, fmt.Sprintf("%d:%d", st.Dev, st.Ino): Journal,
	} {
		if got := detect(f, func(string) string { return stream }); got != want {
			t.Errorf("%q: %s, want %s", stream, got, want)
		}
	}
}

// TestSyslog: each entry is a datagram, also after the syslog service was restarted.
func TestSyslog(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	w := &syslogWriter{path: path}
	if _, err := w.Write([]byte("x")); err == nil {
		t.Error("a write without a service succeeds")
	}
	for range 2 {
		service, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
		require.NoError(t, err)
		_, err = w.Write([]byte("<28>1 hello\n"))
		require.NoError(t, err)
		b := make([]byte, 100)
		if n, err := service.Read(b); err != nil || string(b[:n]) != "<28>1 hello" {
			t.Errorf("got %q, %v", b[:n], err)
		}
		service.Close()
		if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
			t.Fatal(err)
		}
	}
}

// TestSyslogThatHangs: if the syslog service does not read, a write to it fails in time. The guard logs before it
// fences, so it must not wait for that service.
func TestSyslogThatHangs(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	service, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	require.NoError(t, err)
	defer service.Close()
	w := &syslogWriter{path: path}
	done := make(chan error)
	go func() {
		for range 10_000 { // the queue of a socket has some hundred entries at most (net.unix.max_dgram_qlen)
			if _, err := w.Write([]byte("<28>1 hello\n")); err != nil {
				done <- err
				return
			}
		}
		done <- nil
	}()
	select {
	case err := <-done:
		if !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("a write that nobody reads: error %v, want the deadline", err)
		}
	case <-time.After(20 * time.Second):
		t.Fatal("a write that nobody reads blocks")
	}
}

// TestTextHasNoEscapeSequences: a message can have a file name that a container chose, and terminals execute escape
// sequences.
func TestTextHasNoEscapeSequences(t *testing.T) {
	log, err := NewLogger("info", Text, os.Getenv)
	require.NoError(t, err)
	var b strings.Builder
	log.SetOutput(&b)
	log.WithField("path", "a\x1b[2J").Info("bad \x1b[31mname")
	if got := b.String(); strings.Contains(got, "\x1b") || !strings.Contains(got, `\x1b[31mname`) || !strings.Contains(got, `"a\x1b[2J"`) {
		t.Errorf("logged %q, want the escape sequences as text", got)
	}
}

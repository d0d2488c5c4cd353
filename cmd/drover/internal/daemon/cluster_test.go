package daemon

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	consulapi "github.com/hashicorp/consul/api"
	"github.com/sirupsen/logrus"

	"github.com/droverhq/drover"
	"github.com/droverhq/drover/agent/pool"
	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/backends/dir"
	"github.com/droverhq/drover/control"
	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/control/api/client"
	"github.com/droverhq/drover/control/repositories"
	"github.com/droverhq/drover/control/store/consul"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/config"
	"github.com/droverhq/drover/internal/pki"
	"github.com/droverhq/drover/internal/restic"
	"github.com/droverhq/drover/internal/restic/restictest"
	"github.com/droverhq/drover/internal/run"
	"github.com/droverhq/drover/profiles"
	"github.com/droverhq/drover/test/assert"
	testconsul "github.com/droverhq/drover/test/consul"
	"github.com/droverhq/drover/test/require"
)

// lab is a cluster in this process.
type lab struct {
	t   *testing.T
	dir string
	ca  *pki.Authority
	set *profiles.Set
}

func newLab(t *testing.T) *lab {
	t.Helper()
	dir, err := os.MkdirTemp("", "drv-") //nolint:usetesting // the path of a socket has at most 107 bytes (unix(7))
	require.NoError(t, err)
	t.Cleanup(func() { os.RemoveAll(dir) })
	l := &lab{t: t, dir: dir}
	if l.ca, err = pki.Create(filepath.Join(dir, "ca"), time.Now()); err != nil {
		t.Fatal(err)
	}
	if l.set, err = profiles.Parse("profiles.yaml", drover.Profiles); err != nil {
		t.Fatal(err)
	}
	return l
}

// options returns the options of a process with a name.
func (l *lab) options(name string) Options {
	log := logrus.New()
	log.SetOutput(io.Discard)
	if os.Getenv("DROVER_TEST_LOG") != "" {
		log.SetOutput(os.Stderr)
	}
	at := filepath.Join(l.dir, name)
	return Options{
		Root: at, Run: at, NodeName: name, Version: "test", Log: log,
		Profiles: func() control.Profiles { return l.set },
		Listen:   listener(l.t),
	}
}

// listener returns an address on which nobody else listens. It is on a random loopback address, because another test
// could get a free port of 127.0.0.1 before the process listens on it.
func listener(t *testing.T) *config.Listen {
	t.Helper()
	l, err := net.Listen("tcp", fmt.Sprintf("127.%d.%d.1:0", 1+rand.IntN(254), rand.IntN(256)))
	require.NoError(t, err)
	defer l.Close()
	return &config.Listen{Address: l.Addr().String(), Advertise: l.Addr().String()}
}

func (l *lab) control(name string, addresses []string) Options {
	o := l.options(name)
	o.CA = filepath.Join(l.dir, "ca")
	o.Consul = &consul.Options{Addresses: addresses, Prefix: "drover"}
	return o
}

// agent returns the options of an agent that has joined: it has a certificate.
func (l *lab) agent(name string, replicas ...Options) Options {
	l.t.Helper()
	o := l.options(name)
	o.PluginDir, o.Driver, o.Profiles, o.Backends = filepath.Join(o.Root, "plugins"), "drover", nil, backends.NewRegistry(dir.Backend{})
	o.Pools = []pool.Config{{Name: "plain", Backend: "dir", Path: filepath.Join(l.dir, "pool-"+name)}}
	for _, r := range replicas {
		o.Replicas = append(o.Replicas, r.Listen.Advertise)
	}
	pair, err := l.ca.Issue(pki.Identity{Cluster: l.ca.Cluster(), Kind: pki.Node, Node: uuid.New(), Name: name}, time.Now())
	if err == nil {
		err = os.MkdirAll(filepath.Join(o.Root, "tls"), 0o700)
	}
	if err == nil {
		err = pair.Save(pki.NodeFiles(filepath.Join(o.Root, "tls")))
	}
	require.NoError(l.t, err)
	return o
}

// running is a process of Drover, which runs until it is stopped.
type running struct {
	stop context.CancelFunc
	done chan error
}

// start starts a process, and returns when it serves.
func (l *lab) start(what func(context.Context, Options) error, o Options) *running {
	l.t.Helper()
	ctx, cancel := context.WithCancel(l.t.Context())
	r := &running{stop: cancel, done: make(chan error, 1)}
	ready := make(chan struct{})
	o.Ready = func() { close(ready) }
	go func() { r.done <- what(ctx, o) }()
	l.t.Cleanup(func() { r.end(l.t) })
	select {
	case <-ready:
	case err := <-r.done:
		r.stop = nil
		cancel()
		l.t.Fatalf("%s ended: %v", o.NodeName, err)
	}
	return r
}

func (r *running) end(t *testing.T) {
	t.Helper()
	if r.stop == nil {
		return
	}
	r.stop()
	assert.NoErrorf(t, <-r.done, "end")
	r.stop = nil
}

// ask returns a client of a unix socket.
func (l *lab) ask(socket string) *client.Client {
	l.t.Helper()
	c, err := client.New("unix://" + socket)
	require.NoError(l.t, err)
	l.t.Cleanup(c.Close)
	return c
}

func soon(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	t.Cleanup(cancel)
	return ctx
}

// A volume is created through the host of an agent, by either replica. Both replicas and the socket of the agent show
// it. If the replica that the agent uses stops, the agent uses the other one.
func TestControlAndAgent(t *testing.T) {
	c := testconsul.Start(t, testconsul.Options{})
	l := newLab(t)
	replicas := []Options{l.control("c1", c.Addresses()), l.control("c2", c.Addresses())}
	var up []*running
	for _, o := range replicas {
		up = append(up, l.start(Control, o))
	}
	o := l.agent("n1", replicas...)
	l.start(Agent, o)
	users := l.ask(o.apiSocket())
	create := func(name string) {
		t.Helper()
		out, err := users.Submit(soon(t), api.Request{Kind: dataset.OpCreate, Volume: name})
		require.NoError(t, err)
		for op := *out.Operation; ; {
			if op, err = users.Operation(soon(t), op.ID.String(), time.Minute); err != nil || op.Problem != nil {
				t.Fatal(op.Problem, err)
			}
			if op.State.Final() {
				break
			}
		}
	}
	create("db@bronze")
	for _, socket := range []string{replicas[0].controlSocket(), replicas[1].controlSocket(), o.apiSocket()} {
		if v, err := l.ask(socket).Volume(soon(t), "db"); err != nil || v.Node != "n1" {
			t.Errorf("%s: %+v, %v", socket, v, err)
		}
	}
	for _, o := range replicas { // each gets the status of the pool, and knows that the node is alive
		c := l.ask(o.controlSocket())
		pools, err := c.Pools(soon(t))
		if err != nil || len(pools) != 1 || pools[0].Status == nil || !pools[0].Status.Online {
			t.Errorf("%s: %+v, %v", o.NodeName, pools, err)
		}
		if nodes, err := c.NodeList(soon(t), ""); err != nil || len(nodes) != 1 || !nodes[0].Live || nodes[0].Address == "" {
			t.Errorf("%s: %+v, %v", o.NodeName, nodes, err)
		}
	}
	for i, r := range up {
		r.end(t)
		create(fmt.Sprintf("more%d", i))
		if i == 0 {
			up[1].end(t)
			if v, err := users.Volume(soon(t), "db"); err != nil || v.Volume != "db" {
				t.Errorf("all replicas are away: volume db is %+v, error %v; want what the host knows", v, err)
			}
			if _, err := users.Volume(soon(t), "elsewhere"); dataset.KindOf(err) != dataset.ErrUnavailable {
				t.Errorf("all replicas are away: volume elsewhere: error %v, want ErrUnavailable", err)
			}
			l.start(Control, replicas[0])
			break
		}
	}
	create("again")
}

// While Consul is unreachable, control serves and returns that error. It continues when Consul is reachable again.
func TestControlWithoutConsul(t *testing.T) {
	c := testconsul.Start(t, testconsul.Options{})
	c.Servers[0].Stop()
	l := newLab(t)
	o := l.control("c1", c.Addresses())
	l.start(Control, o)
	client := l.ask(o.controlSocket())
	if _, err := client.Volume(soon(t), "db"); dataset.KindOf(err) != dataset.ErrUnavailable || !strings.Contains(err.Error(), "consul") {
		t.Errorf("%v", err)
	}
	c.Servers[0].Start()
	c.AwaitLeader()
	if _, err := client.Volume(soon(t), "db"); !errors.Is(err, dataset.ErrNotFound) {
		t.Errorf("%v", err)
	}
}

// An agent does not start with the certificate of an operator, or of another node.
func TestWrongCertificate(t *testing.T) {
	l := newLab(t)
	replica := l.control("c1", nil) // is not started
	another, operators := l.agent("n1", replica), l.agent("n2", replica)
	bob, err := l.ca.Issue(pki.Identity{Kind: pki.Operator, Role: pki.Admin, Name: "bob"}, time.Now())
	if err == nil {
		err = bob.Save(pki.NodeFiles(filepath.Join(operators.Root, "tls")))
	}
	node := []byte(`{"node":"` + uuid.NewString() + `"}`)
	require.NoError(t, errors.Join(err, os.WriteFile(filepath.Join(another.Root, "node.json"), node, 0o600)))
	for want, o := range map[string]Options{
		"the certificate is for node":                                       another,
		": expected the certificate of a node, not of operator bob (admin)": operators,
	} {
		if err := l.ends(Agent, o); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %s", err, want)
		}
	}
}

// ends returns the error with which a process ends that must be refused.
func (l *lab) ends(what func(context.Context, Options) error, o Options) error {
	l.t.Helper()
	ctx, cancel := context.WithTimeout(l.t.Context(), time.Minute)
	defer cancel()
	err := what(ctx, o)
	if ctx.Err() != nil {
		l.t.Fatalf("%s %s goes on", o.NodeName, o.Version)
	}
	return err
}

// awaitReplicas waits until others can see this number of replicas. If two replicas start at once, either of them may
// find that it cannot work together with the other.
func awaitReplicas(t *testing.T, c *testconsul.Cluster, want int) {
	t.Helper()
	var keys []string
	for begun, index := time.Now(), uint64(0); time.Since(begun) < time.Minute; {
		now, meta, err := c.Client().KV().Keys("drover/data/live/control/", "", &consulapi.QueryOptions{WaitIndex: index, WaitTime: time.Second})
		require.NoError(t, err)
		if keys, index = now, meta.LastIndex; len(keys) == want {
			return
		}
	}
	t.Fatalf("%q stand, want %d", keys, want)
}

// Replicas and agents of neighbouring versions work together. Others do not start. Their error names the other process
// and what to upgrade.
func TestVersionsSideBySide(t *testing.T) {
	c := testconsul.Start(t, testconsul.Options{})
	l := newLab(t)
	at := func(o Options, version string) Options { o.Version = version; return o }
	one := at(l.control("c1", c.Addresses()), "v1.4.2")
	first := l.start(Control, one)
	awaitReplicas(t, c, 1)
	for version, want := range map[string]string{
		"v1.2.0": "replica c2 cannot work with other replicas: control replica c1 (" + one.Listen.Advertise + ") is drover v1.4.2 and control is v1.2.0: only neighbouring versions work together",
		"v1.6.0": "is drover v1.4.2 and control is v1.6.0: only neighbouring versions work together (upgrade control replica c1",
	} {
		if err := l.ends(Control, at(l.control("c2", c.Addresses()), version)); !errors.Is(err, dataset.ErrForbidden) || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%s: %v", version, err)
		}
	}
	l.start(Control, at(l.control("c2", c.Addresses()), "v1.3.0"))
	awaitReplicas(t, c, 2)
	if err := l.ends(Control, at(l.control("c3", c.Addresses()), "v1.5.0")); err == nil || !strings.Contains(err.Error(), "control replica c2 (") {
		t.Errorf("beside two: %v", err)
	}
	// A replica that is restarted with another version is not refused because of its earlier record.
	first.end(t)
	l.start(Control, at(one, "v1.2.0"))

	if err := l.ends(Agent, at(l.agent("n1", one), "v1.4.0")); !errors.Is(err, dataset.ErrForbidden) || !strings.Contains(err.Error(), "is drover v1.4.0 and control is v1.2.0: only neighbouring versions work together (upgrade control first") {
		t.Errorf("an agent: %v", err)
	}
	l.start(Agent, at(l.agent("n2", one), "v1.3.9"))
}

// While Consul is unreachable, a replica does not know the others. It serves, and ends when it finds out that it cannot
// work together with them.
func TestVersionsAreFoundOutLater(t *testing.T) {
	c := testconsul.Start(t, testconsul.Options{})
	l := newLab(t)
	one, two := l.control("c1", c.Addresses()), l.control("c2", c.Addresses())
	one.Version, two.Version = "v1.4.0", "v1.2.0"
	l.start(Control, one)
	awaitReplicas(t, c, 1)
	c.Servers[0].Pause()
	second := l.start(Control, two)
	c.Servers[0].Resume()
	err := <-second.done
	second.stop()
	second.stop = nil
	if !errors.Is(err, dataset.ErrForbidden) || !strings.Contains(err.Error(), "control replica c1 (") {
		t.Errorf("%v", err)
	}
}

// An export is stored with restic, listed with its cluster, and read again. The folder with the records is removed.
func TestStore(t *testing.T) {
	top := t.TempDir()
	password := filepath.Join(top, "password")
	require.NoError(t, os.WriteFile(password, []byte("correct horse battery staple"), 0o600))
	restictest.Make(t, filepath.Join(top, "repository"), "correct horse battery staple")
	r, err := restic.New(t.Context(), &run.System{}, restic.Options{
		URL: filepath.Join(top, "repository"), Password: dataset.PasswordSource{File: password}, CacheDir: filepath.Join(top, "cache"),
	})
	require.NoError(t, err)
	cluster, folder := uuid.New(), filepath.Join(top, "export")
	taken := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	for i := range 2 {
		removal, err := Store(t.Context(), r, folder, repositories.Export{
			Cluster: cluster, Volumes: i, Taken: taken.Add(time.Duration(i) * time.Hour),
			Write: func(w io.Writer) error { _, err := fmt.Fprintf(w, "records %d", i); return err },
		})
		if err != nil || removal != nil {
			t.Fatal(err, removal)
		}
	}
	if _, err := os.Stat(folder); !os.IsNotExist(err) {
		t.Errorf("the folder was not removed: %v", err)
	}
	list, err := List(t.Context(), r)
	if err != nil || len(list) != 2 || list[0].Volumes != 1 || list[0].Cluster != cluster || !list[0].Taken.Equal(taken.Add(time.Hour)) {
		t.Fatalf("got %+v, %v", list, err)
	}
	var b bytes.Buffer
	if err := Read(t.Context(), r, list[0], &b); err != nil || b.String() != "records 1" {
		t.Errorf("got %q, %v", b.String(), err)
	}
}

// Of exports that are stored each hour, those of the last 24 hours and one of each of the last 30 days are kept, besides
// fewer than removeAtOnce others.
func TestRetention(t *testing.T) {
	start := time.Date(2026, 3, 1, 0, 5, 0, 0, time.UTC)
	var list []restic.Backup
	for day := range 40 { // a clock was wrong
		list = append(list, restic.Backup{ID: fmt.Sprint("future", day), Time: start.AddDate(1, 0, day)})
	}
	removals := 0
	for hour := range 100 * 24 {
		list = append(list, restic.Backup{ID: fmt.Sprint(hour), Time: start.Add(time.Duration(hour) * time.Hour)})
		gone := map[string]bool{}
		for _, id := range expired(list, start.Add(time.Duration(hour)*time.Hour)) {
			gone[id] = true
		}
		if len(gone) == 0 {
			continue
		}
		removals++
		var left []restic.Backup
		for _, b := range list {
			if !gone[b.ID] {
				left = append(left, b)
			}
		}
		list = left
	}
	days, newest := map[string]bool{}, start.Add((100*24-1)*time.Hour)
	recent := 0
	for _, b := range list[40:] {
		days[b.Time.Format(time.DateOnly)] = true
		if newest.Sub(b.Time) < 24*time.Hour {
			recent++
		}
	}
	if recent != 24 || len(days) < 30 || len(list) > 40+24+30+removeAtOnce || removals > 101 {
		t.Errorf("%d exports of the last day and of %d days are left of %d, after %d removals", recent, len(days), len(list), removals)
	}
}

package product_test

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/droverhq/drover/internal/long"
	"github.com/droverhq/drover/internal/restic/restictest"
	"github.com/droverhq/drover/internal/tree/treetest"
	"github.com/droverhq/drover/test/backupserver"
	"github.com/droverhq/drover/test/host"
)

// others is a host that serves its repository team to other clusters, and a host of another cluster.
type others struct {
	server, client *host.Host
	link           *link
	secret         string // of the repository
	files          string // folder with the files of tokens
	root           string // mount point of volume db of the client
}

const teamPassword = "correct horse battery staple"

// startOthers starts both hosts. The client reaches the server through a link.
func startOthers(t *testing.T) *others {
	t.Helper()
	listen, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := listen.Addr().String()
	if err := listen.Close(); err != nil {
		t.Fatal(err)
	}
	o := &others{link: newLink(t, address)}
	o.server = host.Start(t, host.Options{Size: 4 << 30, Config: fmt.Sprintf("remotes: {address: '%s'}\n", address)})
	o.client = host.Start(t, host.Options{Size: 4 << 30})
	o.secret, o.files = filepath.Join(o.server.Dir, "password"), o.client.Dir
	writePassword(t, o.secret, teamPassword)
	team := filepath.Join(o.server.Dir, "team")
	restictest.Make(t, team, teamPassword)
	o.server.Must(t, "remote", "add", "team", team, "--password", "file:"+o.secret, "--store-records=false")
	o.root = mounted(t, o.client, "db")
	t.Cleanup(func() {
		for _, h := range []*host.Host{o.server, o.client} {
			for _, secret := range []string{teamPassword, "drover-grant-"} {
				if strings.Contains(h.Log(), secret) {
					t.Errorf("the log has a secret: %s", secret)
				}
			}
		}
	})
	return o
}

// mounted creates a volume and mounts it until the end of the test.
func mounted(t *testing.T, h *host.Host, volume string) string {
	t.Helper()
	plug := h.Plug(t)
	if err := plug.Create(volume, nil); err != nil {
		t.Fatal(err)
	}
	return mount(t, h, volume)
}

func mount(t *testing.T, h *host.Host, volume string) string {
	t.Helper()
	plug := h.Plug(t)
	at, err := plug.Mount(volume, "user")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := plug.Unmount(volume, "user"); err != nil {
			t.Errorf("unmount: %v", err)
		}
	})
	return at
}

// grant creates a grant with flags, and adds the remote with the same name on the client.
func (o *others) grant(t *testing.T, name string, flags ...string) {
	t.Helper()
	token := filepath.Join(o.files, name+".token")
	o.server.Must(t, append([]string{"remote", "grant", "create", name, "--repository", "team", "--out", token}, flags...)...)
	ca, err := os.ReadFile(filepath.Join(o.server.Root, "remotes", "ca.pem"))
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(token)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(token, append(text, ca...), 0o600); err != nil {
		t.Fatal(err)
	}
	wantOutput(t, o.client.Exec(t, "remote", "add", name, "rest:https://"+o.link.address+"/"+name, "--password", "file:"+o.secret,
		"--credentials-file", token), "opened repository ", "added remote "+name+"\n")
}

// TestOtherCluster: a cluster pushes to a repository that another one serves, and pulls from it. If both sides have
// changed, neither loses anything. A token that was removed is refused.
func TestOtherCluster(t *testing.T) {
	o := startOthers(t)
	o.grant(t, "ann", "--push")
	data := treetest.Bytes(7, 6<<20)
	put(t, filepath.Join(o.root, "data"), data)
	o.client.Must(t, "push", "db", "ann")
	o.server.Must(t, "pull", "team/db")
	theirs := mount(t, o.server, "db")
	wantFile(t, filepath.Join(theirs, "data"), data)

	put(t, filepath.Join(theirs, "theirs"), []byte("theirs"))
	o.server.Must(t, "push", "db", "team")
	put(t, filepath.Join(o.root, "ours"), []byte("ours"))
	res := o.client.Exec(t, "push", "db", "ann")
	if res.Exit != 1 || !strings.HasPrefix(res.Err, "drover: push of volume db to ann/db: both sides have changed: ") {
		t.Errorf("got exit %d, %q", res.Exit, res.Err)
	}
	o.client.Must(t, "pull", "ann/db", "--as", "db2")
	wantFile(t, filepath.Join(mount(t, o.client, "db2"), "theirs"), []byte("theirs"))
	o.client.Must(t, "push", "db", "ann", "--as", "ours")
	if got := strings.Fields(o.server.Must(t, "remote", "ls", "team", "-q")); len(got) != 3 {
		t.Errorf("the versions are %q", got)
	}
	o.server.Must(t, "repository", "check", "team", "--read-data", "100")
	if got := o.server.Log(); strings.Count(got, "another cluster stored a snapshot") != 4 { // a backup and an entry each
		t.Errorf("the log of the server has %d stored snapshots", strings.Count(got, "another cluster stored a snapshot"))
	}

	wantError(t, o.server.Exec(t, "repository", "rm", "team", "--yes"), "drover: repository team: other clusters may use it by "+
		"the grants ann (remove them first: drover remote grant rm; or use --force)")
	o.server.Must(t, "remote", "grant", "rm", "ann", "--yes")
	time.Sleep(4 * time.Second) // the server reads the grants every 3 seconds
	res = o.client.Exec(t, "remote", "ls", "ann")
	if res.Exit != 1 || !strings.Contains(res.Err, "it does not accept the token") || strings.Count(res.Err, "\n") != 1 {
		t.Errorf("after the removal: exit %d, %q", res.Exit, res.Err)
	}
}

// TestGrantRemovedDuringPush: a push in progress ends soon after its grant was removed, with one line that says why. It
// leaves no part of a file in the repository.
func TestGrantRemovedDuringPush(t *testing.T) {
	o := startOthers(t)
	o.grant(t, "ann", "--push")
	put(t, filepath.Join(o.root, "data"), treetest.Bytes(12, 24<<20))
	o.link.limit(256 << 10) // the push would take more than a minute
	uploads := func() []string {
		t.Helper()
		list, err := filepath.Glob(filepath.Join(o.server.Dir, "team", "data", "*", "*.drover-upload-*"))
		if err != nil {
			t.Fatal(err)
		}
		return list
	}
	var all sync.WaitGroup
	var removed time.Time
	var mu sync.Mutex
	all.Go(func() {
		res := o.client.Exec(t, "push", "db", "ann")
		mu.Lock()
		defer mu.Unlock()
		_, text, found := strings.Cut(res.Err, "drover: ") // after the progress
		if res.Exit != 1 || !found || !strings.Contains(text, "it does not accept the token") || strings.Count(text, "\n") != 1 {
			t.Errorf("got exit %d, %q", res.Exit, res.Err)
		}
		if took := time.Since(removed); removed.IsZero() || took > 40*time.Second {
			t.Errorf("the push ended %s after the removal of the grant", took)
		}
	})
	for end := time.Now().Add(time.Minute); len(uploads()) == 0; time.Sleep(20 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("no upload begins")
		}
	}
	mu.Lock()
	o.server.Must(t, "remote", "grant", "rm", "ann", "--yes")
	removed = time.Now()
	mu.Unlock()
	all.Wait()
	if list := uploads(); len(list) > 0 {
		t.Errorf("left: %q", list)
	}
}

// TestRefusedPushes: a push without the right, and one that exceeds the quota, fails soon with one line that says why,
// and adds no version. A pull still succeeds.
func TestRefusedPushes(t *testing.T) {
	o := startOthers(t)
	o.grant(t, "ann", "--push", "--quota", "8MiB")
	o.grant(t, "bob")
	put(t, filepath.Join(o.root, "data"), treetest.Bytes(7, 2<<20))
	o.client.Must(t, "push", "db", "ann")
	put(t, filepath.Join(o.root, "more"), treetest.Bytes(8, 16<<20))
	var all sync.WaitGroup
	for remote, want := range map[string]string{
		"ann": "the quota of the grant is used up", "bob": "the token lacks the right",
	} {
		volume := map[string]string{"ann": "db", "bob": "db2"}[remote]
		if volume == "db2" {
			o.client.Must(t, "pull", "bob/db", "--as", "db2")
			put(t, filepath.Join(mount(t, o.client, "db2"), "more"), treetest.Bytes(9, 16<<20))
		}
		all.Go(func() {
			res := o.client.Exec(t, "push", volume, remote, "--as", "new")
			_, text, found := strings.Cut(res.Err, "drover: ") // after the progress
			if res.Exit != 1 || !found || !strings.Contains(text, want) || strings.Count(text, "\n") != 1 {
				t.Errorf("push to %s: exit %d, %q, want %s", remote, res.Exit, res.Err, want)
			}
		})
	}
	all.Wait()
	if got := strings.Fields(o.server.Must(t, "remote", "ls", "team", "-q")); len(got) != 1 {
		t.Errorf("the versions are %q", got)
	}
	o.client.Must(t, "pull", "bob/db", "--as", "db3")
	o.server.Must(t, "repository", "check", "team", "--read-data", "100")
}

// TestLinkThatDrops pushes and pulls through a link that breaks every five seconds.
func TestLinkThatDrops(t *testing.T) {
	long.Only(t) // the data takes more than 15 seconds each way
	o := startOthers(t)
	o.grant(t, "ann", "--push")
	data := treetest.Bytes(11, 80<<20)
	put(t, filepath.Join(o.root, "data"), data)
	o.link.limit(5 << 20)
	drops := o.link.drop(t, 5*time.Second)
	begin := time.Now()
	o.client.Must(t, "push", "db", "ann")
	pushed := time.Since(begin)
	if pushed < 15*time.Second || drops.Load() < 2 {
		t.Errorf("the push took %s, and the link broke %d times", pushed, drops.Load())
	}
	o.client.Must(t, "pull", "ann/db", "--as", "db2")
	t.Logf("the push took %s, the pull %s; connections broke %d times", pushed.Round(time.Second),
		(time.Since(begin) - pushed).Round(time.Second), drops.Load())
	wantFile(t, filepath.Join(mount(t, o.client, "db2"), "data"), data)
	o.server.Must(t, "repository", "check", "team", "--read-data", "100")
}

// TestRemoteThatLies: a remote that alters or truncates data, or omits the newest version, makes a pull or push fail.
// Nothing wrong is ever visible under a name.
func TestRemoteThatLies(t *testing.T) {
	r := startRemote(t, backupserver.REST(t))
	put(t, filepath.Join(r.root, "data"), treetest.Bytes(5, 1<<20))
	r.Must(t, "push", "db", "offsite")
	first := strings.Fields(snapshotFiles(t, r))
	put(t, filepath.Join(r.root, "more"), treetest.Bytes(6, 1<<20))
	r.Must(t, "push", "db", "offsite")

	changeData := func(change func([]byte) []byte) {
		r.server.Fail(func(w http.ResponseWriter, req *http.Request) bool {
			if req.Method != http.MethodGet || !strings.Contains(req.URL.Path, "/data/") || strings.HasSuffix(req.URL.Path, "/") {
				return false
			}
			name := filepath.Base(req.URL.Path)
			content, err := os.ReadFile(filepath.Join(r.server.Data, "drover", "data", name[:2], name))
			if err != nil {
				t.Errorf("read the pack: %v", err)
				return false
			}
			http.ServeContent(w, req, "", time.Time{}, bytes.NewReader(change(slices.Clone(content))))
			return true
		})
	}
	for what, change := range map[string]func([]byte) []byte{
		"altered":   func(b []byte) []byte { b[len(b)/2] ^= 1; return b },
		"truncated": func(b []byte) []byte { return b[:len(b)/2] },
	} {
		if what == "truncated" && !long.Enabled() {
			continue // restic repeats the requests
		}
		changeData(change)
		clearCache(t, r)
		res := r.Exec(t, "pull", "offsite/db", "--as", "wrong")
		if res.Exit != 1 || strings.Count(res.Err, "\n") != 1 || !strings.Contains(res.Err, "damaged") {
			t.Errorf("%s: exit %d, %q", what, res.Exit, res.Err)
		}
		if got := r.Must(t, "volume", "ls", "-q"); strings.Contains(got, "\n") {
			t.Errorf("%s: the volumes are %q", what, got)
		}
	}
	// It lists only the files of the first version.
	r.server.Fail(func(w http.ResponseWriter, req *http.Request) bool {
		if req.Method != http.MethodGet || !strings.HasSuffix(req.URL.Path, "/snapshots/") {
			return false
		}
		var list []string
		for _, name := range first {
			info, err := os.Stat(filepath.Join(r.server.Data, "drover", "snapshots", name))
			if err != nil {
				t.Errorf("%v", err)
				return false
			}
			list = append(list, fmt.Sprintf(`{"name":%q,"size":%d}`, name, info.Size()))
		}
		w.Header().Set("Content-Type", "application/vnd.x.restic.rest.v2")
		_, _ = io.WriteString(w, "["+strings.Join(list, ",")+"]")
		return true
	})
	res := r.Exec(t, "push", "db", "offsite")
	if res.Exit != 1 || !strings.Contains(res.Err, "the remote has versions of db, but lacks version ") {
		t.Errorf("an omitted version: exit %d, %q", res.Exit, res.Err)
	}
	r.server.Fail(nil)
	clearCache(t, r) // restic 0.14 keeps a damaged file in its cache
	r.Must(t, "push", "db", "offsite")
	r.valid(t)
}

// snapshotFiles returns the names of the files with the snapshots of a repository.
func snapshotFiles(t *testing.T, r *remote) string {
	t.Helper()
	entries, err := os.ReadDir(filepath.Join(r.server.Data, "drover", "snapshots"))
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return strings.Join(names, " ")
}

// clearCache removes restic's cache, so that restic reads everything from the remote again.
func clearCache(t *testing.T, r *remote) {
	t.Helper()
	if err := os.RemoveAll(filepath.Join(r.Root, "restic-cache")); err != nil {
		t.Fatal(err)
	}
}

func wantFile(t *testing.T, path string, want []byte) {
	t.Helper()
	if got, err := os.ReadFile(path); err != nil || !bytes.Equal(got, want) {
		t.Errorf("%s differs: %d bytes, %v", path, len(got), err)
	}
}

// link is a proxy that can be slow, and can break all connections.
type link struct {
	address string
	rate    atomic.Int64 // bytes a second of all connections together; 0 means no limit

	mu          sync.Mutex
	connections map[net.Conn]bool
	free        time.Time // when the link can send again
}

// newLink starts a link to an address.
func newLink(t *testing.T, to string) *link {
	t.Helper()
	listen, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l := &link{address: listen.Addr().String(), connections: map[net.Conn]bool{}}
	var all sync.WaitGroup
	all.Go(func() {
		for {
			from, err := listen.Accept()
			if err != nil {
				return
			}
			all.Go(func() { l.pass(from, to) })
		}
	})
	t.Cleanup(func() { _ = listen.Close(); l.closeAll(); all.Wait() })
	return l
}

func (l *link) limit(rate int64) { l.rate.Store(rate) }

// pass copies both directions of a connection until one of them ends.
func (l *link) pass(from net.Conn, address string) {
	to, err := net.Dial("tcp", address)
	if err != nil {
		_ = from.Close()
		return
	}
	l.mu.Lock()
	l.connections[from], l.connections[to] = true, true
	l.mu.Unlock()
	var both sync.WaitGroup
	both.Go(func() { l.copy(to, from) })
	both.Go(func() { l.copy(from, to) })
	both.Wait()
	l.mu.Lock()
	delete(l.connections, from)
	delete(l.connections, to)
	l.mu.Unlock()
}

func (l *link) copy(to, from net.Conn) {
	defer func() { _, _ = to.Close(), from.Close() }()
	buf := make([]byte, 64<<10)
	for {
		n, err := from.Read(buf)
		if err != nil {
			return
		}
		l.wait(n)
		if _, err := to.Write(buf[:n]); err != nil {
			return
		}
	}
}

// wait waits until the link has sent n bytes.
func (l *link) wait(n int) {
	rate := l.rate.Load()
	if rate == 0 {
		return
	}
	l.mu.Lock()
	if now := time.Now(); l.free.Before(now) {
		l.free = now
	}
	l.free = l.free.Add(time.Duration(n) * time.Second / time.Duration(rate))
	until := l.free
	l.mu.Unlock()
	time.Sleep(time.Until(until))
}

func (l *link) closeAll() (n int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for c := range l.connections {
		_ = c.Close()
		n++
	}
	return n
}

// drop breaks all connections again and again. It returns how many were broken so far.
func (l *link) drop(t *testing.T, every time.Duration) *atomic.Int64 {
	t.Helper()
	var drops atomic.Int64
	end := make(chan struct{})
	var all sync.WaitGroup
	all.Go(func() {
		for {
			select {
			case <-time.After(every):
				drops.Add(l.closeAll())
			case <-end:
				return
			}
		}
	})
	t.Cleanup(func() { close(end); all.Wait() })
	return &drops
}

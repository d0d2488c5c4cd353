package restserver_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/droverhq/drover/internal/clock"
	"github.com/droverhq/drover/internal/restic/restictest"
	"github.com/droverhq/drover/internal/restserver"
	"github.com/droverhq/drover/internal/scratch"
)

func TestMain(m *testing.M) { os.Exit(scratch.MainInMemory(m)) }

const password = "correct horse"

// world is a repository and a server of it.
type world struct {
	*testing.T
	dir    string
	clock  *clock.Fake
	mu     sync.Mutex // guards access while restic runs
	access restserver.Access
	// directory is the served directory.
	directory *restserver.Directory
	url       string
	failed    func(error) // is called with an error of Serve; fails the test by default
}

func (w *world) setPush(may bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.access.Push = may
}

func serve(t *testing.T, a restserver.Access) *world {
	t.Helper()
	w := &world{T: t, dir: filepath.Join(t.TempDir(), "r"), clock: clock.NewFake(time.Now()), access: a}
	w.failed = func(err error) { t.Errorf("the server failed: %v", err) }
	restictest.Make(t, w.dir, password)
	w.directory = restserver.Open(w.dir, w.clock, restserver.NewUploads("me"))
	s := httptest.NewServer(http.HandlerFunc(func(out http.ResponseWriter, r *http.Request) {
		w.mu.Lock()
		a := w.access
		w.mu.Unlock()
		if err := w.directory.Serve(out, r, strings.TrimPrefix(r.URL.Path, "/"), a); err != nil {
			w.failed(err)
		}
	}))
	t.Cleanup(s.Close)
	w.url = s.URL
	return w
}

func nameOf(content []byte) string {
	sum := sha256.Sum256(content)
	return hex.EncodeToString(sum[:])
}

// do sends a request, and returns the status and the body of the response.
func (w *world) do(method, path string, content []byte, header ...string) (status int, body string) {
	w.Helper()
	r, err := http.NewRequestWithContext(w.Context(), method, w.url+path, bytes.NewReader(content))
	if err != nil {
		w.Fatal(err)
	}
	for i := 0; i < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	res, err := http.DefaultClient.Do(r)
	if err != nil {
		w.Fatal(err)
	}
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	if err != nil {
		w.Fatal(err)
	}
	return res.StatusCode, string(text)
}

// want fails unless a request gets a status.
func (w *world) want(status int, method, path string, content []byte) {
	w.Helper()
	if got, text := w.do(method, path, content); got != status {
		w.Errorf("%s %s: got %d %q, want %d", method, path, got, text, status)
	}
}

// files returns the names of all files in the repository besides its key.
func (w *world) files() (names []string) {
	w.Helper()
	err := filepath.WalkDir(w.dir, func(path string, d os.DirEntry, err error) error {
		if err == nil && !d.IsDir() && !strings.Contains(path, "/keys/") {
			names = append(names, strings.TrimPrefix(path, w.dir+"/"))
		}
		return err
	})
	if err != nil {
		w.Fatal(err)
	}
	slices.Sort(names)
	return names
}

// Each kind of file can be added, changed and removed only as its kind and the right of the caller allow.
func TestRights(t *testing.T) {
	content := []byte("some content")
	name := nameOf(content)
	for _, c := range []struct {
		path               string
		push, pull, remove int // the status of an addition with and without the right to push, and of a removal
		removePull         int
	}{
		{"/data/" + name, 200, 403, 403, 403},
		{"/index/" + name, 200, 403, 403, 403},
		{"/snapshots/" + name, 200, 403, 200, 403},
		{"/locks/" + name, 200, 200, 200, 200},
		{"/keys/" + name, 403, 403, 403, 403},
		{"/config", 403, 403, 403, 403},
		{"/", 403, 403, 403, 403},
	} {
		w := serve(t, restserver.Access{})
		before := w.files()
		w.want(c.pull, http.MethodPost, c.path, content)
		if after := w.files(); c.pull != 200 && !slices.Equal(before, after) {
			t.Errorf("%s: a refused addition left %v", c.path, after)
		}
		w.access.Push = true
		w.want(c.push, http.MethodPost, c.path, content)
		w.access.Push = false
		w.want(c.removePull, http.MethodDelete, c.path, nil)
		if c.removePull == 200 {
			w.want(200, http.MethodPost, c.path, content)
		}
		w.access.Push = true
		w.want(c.remove, http.MethodDelete, c.path, nil)
	}
}

// Only the names of the protocol are served, and nothing outside of the directory.
func TestNames(t *testing.T) {
	w := serve(t, restserver.Access{Push: true})
	content := []byte("content")
	name := nameOf(content)
	outside := filepath.Join(filepath.Dir(w.dir), "secret")
	check(t, os.WriteFile(outside, content, 0o600))
	check(t, os.Symlink(outside, filepath.Join(w.dir, "index", name)))
	check(t, os.Symlink(filepath.Dir(w.dir), filepath.Join(w.dir, "data", name[:2])))
	check(t, os.Mkdir(filepath.Join(w.dir, "locks", name), 0o700))
	w.failed = func(error) {} // a symbolic link
	for _, path := range []string{
		"/../secret", "/data/../../secret", "/data/%2e%2e/secret", "/other/" + name, "/data/" + name[:63],
		"/data/" + strings.ToUpper(name), "/data/" + name + "x", "/data/" + name + "/x", "/keys", "/config/", "//config",
		"/data/" + name, "/index/" + name, "/locks/" + name, "/snapshots/" + name,
	} {
		if status, text := w.do(http.MethodGet, path, nil); status == 200 || strings.Contains(text, "content") {
			t.Errorf("GET %s: got %d %q", path, status, text)
		}
	}
	w.want(500, http.MethodPost, "/data/"+name, content)
	if _, err := os.Stat(filepath.Join(filepath.Dir(w.dir), name)); err == nil {
		t.Error("a file was written outside of the repository")
	}
	if _, text := w.do(http.MethodGet, "/index/", nil); text != "[]" {
		t.Errorf("a symbolic link is listed: %s", text)
	}
	w.want(405, http.MethodPut, "/config", content)
	w.want(405, http.MethodPost, "/data/", content)
	w.want(405, http.MethodDelete, "/locks/", nil)
}

// A file is stored only if it is complete and its name is the SHA-256 of its content. It is never replaced.
func TestContent(t *testing.T) {
	w := serve(t, restserver.Access{Push: true})
	content := bytes.Repeat([]byte("x"), 100_000)
	path := "/data/" + nameOf(content)
	before := w.files()
	w.want(400, http.MethodPost, path, content[1:])
	w.want(413, http.MethodPost, "/locks/"+nameOf(content), content)
	r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, w.url+path, io.MultiReader(bytes.NewReader(content)))
	check(t, err)
	res, err := http.DefaultClient.Do(r) // without a length
	check(t, err)
	check(t, res.Body.Close())
	if res.StatusCode != 411 {
		t.Errorf("without a length: got %d", res.StatusCode)
	}
	r, err = http.NewRequestWithContext(t.Context(), http.MethodPost, w.url+path, io.MultiReader(bytes.NewReader(content[1:])))
	check(t, err)
	r.ContentLength = int64(len(content))
	if res, err = http.DefaultClient.Do(r); err == nil { // the client ends the connection
		check(t, res.Body.Close())
		if res.StatusCode == 200 {
			t.Error("a truncated file was stored")
		}
	}
	wait(t, func() bool { return slices.Equal(before, w.files()) })

	w.want(200, http.MethodPost, path, content)
	w.want(200, http.MethodPost, path, content) // the answer to the first request was lost
	w.want(400, http.MethodPost, path, content[1:])
	file := filepath.Join(w.dir, "data", nameOf(content)[:2], nameOf(content))
	check(t, os.Truncate(file, 10))
	var failures []string
	w.failed = func(err error) { failures = append(failures, err.Error()) }
	w.want(409, http.MethodPost, path, content)
	want := path[1:] + " is damaged: it has 10 bytes instead of 100000"
	if len(failures) != 1 || failures[0] != want {
		t.Errorf("the server of a damaged file reports %q, want %q", failures, want)
	}
	if info, err := os.Stat(file); err != nil || info.Size() != 10 || info.Mode().Perm() != 0o400 {
		t.Errorf("the file was replaced: %v, %v", info, err)
	}
	check(t, os.Remove(filepath.Join(w.dir, "config"))) // the disk is not mounted
	w.want(404, http.MethodPost, path, content)
}

// Requests that add the same file at the same time store it once.
func TestConcurrentAdditions(t *testing.T) {
	w := serve(t, restserver.Access{Push: true, Quota: 100_000})
	content := bytes.Repeat([]byte("x"), 10_000)
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() { w.want(200, http.MethodPost, "/data/"+nameOf(content), content) })
	}
	all.Wait()
	if got := w.files(); len(got) != 2 {
		t.Errorf("got %v", got)
	}
}

func TestReading(t *testing.T) {
	w := serve(t, restserver.Access{Push: true})
	content := []byte("0123456789")
	name := nameOf(content)
	w.want(200, http.MethodPost, "/data/"+name, content)
	if status, text := w.do(http.MethodGet, "/data/"+name, nil, "Range", "bytes=2-4"); status != 206 || text != "234" {
		t.Errorf("a range: got %d %q", status, text)
	}
	if status, _ := w.do(http.MethodGet, "/data/"+name, nil, "Range", "bytes=20-"); status != 416 {
		t.Errorf("a range after the end: got %d", status)
	}
	w.want(200, http.MethodHead, "/data/"+name, nil)
	w.want(404, http.MethodHead, "/data/"+nameOf(nil), nil)
	for accept, want := range map[string]string{
		"":                                 `["` + name + `"]`,
		"application/vnd.x.restic.rest.v2": `[{"name":"` + name + `","size":10}]`,
	} {
		if _, text := w.do(http.MethodGet, "/data/", nil, "Accept", accept); text != want {
			t.Errorf("list: got %s, want %s", text, want)
		}
	}
	if _, text := w.do(http.MethodGet, "/snapshots/", nil); text != "[]" {
		t.Errorf("an empty list: got %s", text)
	}
}

// A client that leaves during a list is no failure of the directory.
func TestClientIsGone(t *testing.T) {
	w := serve(t, restserver.Access{})
	check(t, os.WriteFile(filepath.Join(w.dir, "index", "any"), nil, 0o600))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	r := httptest.NewRequestWithContext(ctx, http.MethodGet, "/index/", nil)
	if err := w.directory.Serve(httptest.NewRecorder(), r, "index/", w.access); err != nil {
		t.Errorf("got %v", err)
	}
}

// The quota counts all files of the repository, also those of others. A lock does not need room.
func TestQuota(t *testing.T) {
	w := serve(t, restserver.Access{Push: true})
	add := func(status, n int, kind string) string {
		t.Helper()
		content := fmt.Appendf(bytes.Repeat([]byte("x"), n-4), "%04d", n)
		w.want(status, http.MethodPost, "/"+kind+"/"+nameOf(content), content)
		return filepath.Join(w.dir, kind, nameOf(content))
	}
	w.access.Quota = 4096 + 16_000 // the key counts, too
	add(200, 6000, "index")
	add(507, 10_001, "index")
	snapshot := add(200, 3000, "snapshots")
	add(507, 5950, "index")
	add(200, 2001, "locks")
	w.want(200, http.MethodDelete, "/snapshots/"+filepath.Base(snapshot), nil)
	other := filepath.Join(w.dir, "index", "other")
	check(t, os.WriteFile(other, make([]byte, 5000), 0o600))
	w.clock.Advance(time.Hour) // the files are counted again
	add(507, 1990, "index")
	check(t, os.Remove(other))
	add(507, 1980, "index") // they were counted just now
	w.clock.Advance(time.Minute)
	add(200, 1970, "index")
	add(507, 1970-1, "index")
}

// Many small files use up the quota, too: each one takes a block of the disk.
func TestQuotaOfSmallFiles(t *testing.T) {
	w := serve(t, restserver.Access{Push: true, Quota: 11 * 4096})
	added := 0
	for i := range 20 {
		content := fmt.Append(nil, i)
		if status, _ := w.do(http.MethodPost, "/index/"+nameOf(content), content); status == 200 {
			added++
		}
	}
	if added != 10 { // and the key
		t.Errorf("%d files were added, want 10", added)
	}
}

// Counting the files removes what an interrupted upload of this server has left, and what one of another server has
// left some time ago. Until then, these files use up the quota.
func TestInterruptedUploads(t *testing.T) {
	w := serve(t, restserver.Access{Push: true, Quota: 40_000})
	left := func(server string, age time.Duration) string {
		t.Helper()
		file := filepath.Join(w.dir, "index", nameOf(nil)+".drover-upload-"+server+"-X")
		check(t, os.WriteFile(file, make([]byte, 30_000), 0o600))
		check(t, os.Chtimes(file, time.Time{}, time.Now().Add(-age)))
		return file
	}
	exists := func(file string) bool {
		_, err := os.Stat(file)
		return err == nil
	}
	own, young, old := left("me", 0), left("other", 30*time.Minute), left("another", 2*time.Hour)
	small, large := []byte("x"), make([]byte, 10_000)
	w.want(507, http.MethodPost, "/index/"+nameOf(large), large)
	if exists(own) || exists(old) || !exists(young) {
		t.Errorf("got %s", w.files())
	}
	w.want(200, http.MethodPost, "/index/"+nameOf(small), small)
	check(t, os.Remove(young))
	w.clock.Advance(time.Minute)
	w.want(200, http.MethodPost, "/index/"+nameOf(large), large)
}

// Sweep removes what interrupted uploads have left, and no other file. It removes no upload in progress.
func TestSweep(t *testing.T) {
	w := serve(t, restserver.Access{Push: true})
	read, write := io.Pipe()
	content := bytes.Repeat([]byte("x"), 100_000)
	r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, w.url+"/data/"+nameOf(content), read)
	check(t, err)
	r.ContentLength = int64(len(content))
	var all sync.WaitGroup
	all.Go(func() {
		res, err := http.DefaultClient.Do(r)
		if err != nil || res.StatusCode != 200 || res.Body.Close() != nil {
			t.Errorf("the upload failed: %v, %v", res, err)
		}
	})
	_, err = write.Write(content[:50_000])
	check(t, err)
	isUpload := func(name string) bool { return strings.Contains(name, "-upload-") }
	wait(t, func() bool { return slices.ContainsFunc(w.files(), isUpload) })
	before := w.files()
	for _, folder := range []string{"index", "snapshots", "locks", "data/" + nameOf(content)[:2]} {
		check(t, os.WriteFile(filepath.Join(w.dir, folder, nameOf(nil)+".drover-upload-me-X"), nil, 0o600))
	}
	check(t, w.directory.Sweep(t.Context()))
	if after := w.files(); !slices.Equal(before, after) {
		t.Errorf("got %q, want %q", after, before)
	}
	_, err = write.Write(content[50_000:])
	check(t, err)
	check(t, write.Close())
	all.Wait()
	if slices.ContainsFunc(w.files(), isUpload) {
		t.Errorf("got %q", w.files())
	}
}

// While the files are counted, another request can end, a file can be removed, and the waiting request can be cancelled
// or gives up. Requests that wait share one count.
func TestSlowCount(t *testing.T) {
	w := serve(t, restserver.Access{Push: true, Quota: 1 << 20})
	proceed := make(chan struct{})
	var counts atomic.Int64
	restserver.WhileCounting(w.directory, func() { counts.Add(1); <-proceed })
	ctx, cancel := context.WithCancel(t.Context())
	post := func(ctx context.Context, content string) int {
		r := httptest.NewRequestWithContext(ctx, http.MethodPost, "/", strings.NewReader(content))
		out := httptest.NewRecorder()
		check(t, w.directory.Serve(out, r, "index/"+nameOf([]byte(content)), w.access))
		return out.Code
	}
	var all sync.WaitGroup
	ended := make(chan struct{})
	all.Go(func() { post(ctx, "cancelled"); close(ended) })
	wait(t, func() bool { return counts.Load() == 1 })
	cancel()
	select {
	case <-ended:
	case <-time.After(10 * time.Second):
		t.Fatal("a cancelled request waits")
	}
	name := nameOf(nil)
	check(t, os.WriteFile(filepath.Join(w.dir, "locks", name), nil, 0o600))
	w.want(200, http.MethodDelete, "/locks/"+name, nil)
	late := make(chan int, 1)
	all.Go(func() { late <- post(t.Context(), "late") })
	wait(t, func() bool { w.clock.Advance(time.Minute); return len(late) > 0 })
	if got := <-late; got != 503 {
		t.Errorf("a request that waits: got %d, want 503", got)
	}
	all.Go(func() {
		if got := post(t.Context(), "patient"); got != 200 {
			t.Errorf("a request that waits: got %d, want 200", got)
		}
	})
	close(proceed)
	all.Wait()
	if got := counts.Load(); got != 1 {
		t.Errorf("the files were counted %d times", got)
	}
}

// An upload waits only a little for a repeated count, if it has room by the last one.
func TestSlowRecount(t *testing.T) {
	w := serve(t, restserver.Access{Push: true, Quota: 40_000})
	content := make([]byte, 10_000)
	w.want(200, http.MethodPost, "/data/"+nameOf(content), content)
	proceed := make(chan struct{})
	defer close(proceed)
	restserver.WhileCounting(w.directory, func() { <-proceed })
	w.clock.Advance(time.Hour)
	post := func(n int, step time.Duration) int {
		content, status := make([]byte, n), make(chan int, 1)
		r := httptest.NewRequestWithContext(t.Context(), http.MethodPost, "/", bytes.NewReader(content))
		out := httptest.NewRecorder()
		go func() {
			if err := w.directory.Serve(out, r, "data/"+nameOf(content), w.access); err != nil {
				t.Error(err)
			}
			status <- out.Code
		}()
		wait(t, func() bool { w.clock.Advance(step); return len(status) > 0 })
		return <-status
	}
	if got := post(10_001, time.Second); got != 200 {
		t.Errorf("an upload with room: got %d, want 200", got)
	}
	if got := post(10_002, 0); got != 200 {
		t.Errorf("an upload with room, when the count has run for some time: got %d, want 200", got)
	}
	if got := post(10_003, time.Second); got != 503 {
		t.Errorf("an upload without room: got %d, want 503", got)
	}
}

// A file that is added while the files are counted counts once.
func TestAdditionDuringCount(t *testing.T) {
	w := serve(t, restserver.Access{Push: true, Quota: 4096 + 30_000})
	first, second, third := make([]byte, 10_000), make([]byte, 10_001), make([]byte, 9_999)
	restserver.WhileCounting(w.directory, func() {
		r := httptest.NewRequestWithContext(t.Context(), http.MethodPost, "/", bytes.NewReader(first))
		if err := w.directory.Serve(httptest.NewRecorder(), r, "data/"+nameOf(first), restserver.Access{Push: true}); err != nil {
			t.Error(err)
		}
	})
	check(t, w.directory.Sweep(t.Context()))
	w.want(200, http.MethodPost, "/data/"+nameOf(second), second)
	w.want(200, http.MethodPost, "/data/"+nameOf(third), third)
}

// Uploads of the same file at the same time need room for one. restic sends a file again if the connection broke, and
// the server may still wait for the rest of the first request.
func TestOverlappingUploads(t *testing.T) {
	w := serve(t, restserver.Access{Push: true, Quota: 4096 + 10_000})
	content := make([]byte, 10_000)
	read, write := io.Pipe()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, w.url+"/data/"+nameOf(content), read)
	check(t, err)
	r.ContentLength = int64(len(content))
	var all sync.WaitGroup
	all.Go(func() {
		res, err := http.DefaultClient.Do(r)
		if err != nil || res.StatusCode != 200 || res.Body.Close() != nil {
			t.Errorf("the first upload failed: %v, %v", res, err)
		}
	})
	_, err = write.Write(content[:5_000])
	check(t, err)
	wait(t, func() bool {
		return slices.ContainsFunc(w.files(), func(f string) bool { return strings.Contains(f, "-upload-") })
	})
	w.want(200, http.MethodPost, "/data/"+nameOf(content), content)
	_, err = write.Write(content[5_000:])
	check(t, err)
	check(t, write.Close())
	all.Wait()
	w.want(507, http.MethodPost, "/data/"+nameOf(nil), nil)
}

func TestTooManyLocks(t *testing.T) {
	w := serve(t, restserver.Access{})
	for i := range 256 {
		check(t, os.WriteFile(filepath.Join(w.dir, "locks", fmt.Sprint(i)), nil, 0o600))
	}
	w.want(503, http.MethodPost, "/locks/"+nameOf(nil), nil)
}

// restic runs restic with the repository of the server.
func (w *world) restic(args ...string) (out string, err error) {
	w.Helper()
	cmd := exec.CommandContext(w.Context(), "restic", append([]string{"-r", "rest:" + w.url, "--no-cache"}, args...)...)
	cmd.Env = append(os.Environ(), "RESTIC_PASSWORD="+password)
	text, err := cmd.CombinedOutput()
	return string(text), err
}

// restic itself can use the server for all that a push and a pull need.
func TestRestic(t *testing.T) {
	w := serve(t, restserver.Access{Push: true})
	src := t.TempDir()
	content := make([]byte, 3<<20)
	for i := range content {
		content[i] = byte(i * i >> 8)
	}
	check(t, os.WriteFile(filepath.Join(src, "file"), content, 0o600))
	must := func(args ...string) string {
		t.Helper()
		out, err := w.restic(args...)
		if err != nil {
			t.Fatalf("restic %v: %v: %s", args, err, out)
		}
		return out
	}
	must("backup", src)
	must("backup", src, "--tag=second")
	w.setPush(false)
	target := t.TempDir()
	must("restore", "latest", "--target", target)
	if got, err := os.ReadFile(filepath.Join(target, src, "file")); err != nil || !bytes.Equal(got, content) {
		t.Errorf("the restored file differs: %v", err)
	}
	must("check", "--read-data")
	w.setPush(true)
	must("forget", strings.Fields(must("snapshots", "--tag=second", "--compact"))[5])
	if got := must("snapshots", "--compact"); !strings.Contains(got, "1 snapshots") {
		t.Errorf("got %s", got)
	}
	must("unlock")
	cmd := exec.CommandContext(t.Context(), "restic", "-r", w.dir, "--no-cache", "check", "--read-data")
	cmd.Env = append(os.Environ(), "RESTIC_PASSWORD="+password)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("the directory is no valid repository: %v: %s", err, out)
	}
}

func wait(t *testing.T, done func() bool) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); !done(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("it takes too long")
		}
	}
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

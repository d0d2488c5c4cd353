package zfs

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"io"
	"slices"
	"strings"
	"testing"

	"github.com/google/uuid"

	"github.com/droverhq/drover/backends/shelf"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/run"
	"github.com/droverhq/drover/internal/safefile"
	"github.com/droverhq/drover/test/assert"
	"github.com/droverhq/drover/test/fakes"
	"github.com/droverhq/drover/test/require"
)

// A zpool or ZFS that cannot encrypt is not an error: the pool reports the remedy. It is an error if the ability is
// unknown.
func TestWhichCanEncrypt(t *testing.T) {
	const would = "or use a pool of backend loop or lvm)"
	for name, c := range map[string]struct {
		says, complains string
		lacks           string // empty if encryption is possible
		fuse, fails     bool
	}{
		"enabled": {says: "enabled\n"},
		"in use":  {says: "active\n"},
		"not enabled": {
			says:  "disabled\n",
			lacks: "encryption needs a feature of its zpool (zpool set feature@encryption=enabled tank; " + would,
		},
		"an old zpool": {says: "-\n", lacks: "(zpool upgrade tank, "},
		"an old ZFS": {
			complains: "bad property list: invalid property 'feature@encryption'",
			lacks:     "encryption needs OpenZFS 0.8 or later: the kernel has ",
		},
		"zfs-fuse": {
			fuse:  true,
			lacks: "encryption needs OpenZFS 0.8 or later instead of zfs-fuse, which has no feature@encryption (Debian, from contrib: apt-get install zfsutils-linux zfs-dkms; ",
		},
		"no answer": {complains: "internal error: out of memory", fails: true},
	} {
		lacks, err := tool{fakes.Run(func(_ context.Context, cmd run.Command) (run.Result, error) {
			if c.fuse || cmd.Name != zpoolProgram || cmd.Args[len(cmd.Args)-1] != "tank" {
				t.Errorf("ran %s %q", cmd.Name, cmd.Args)
			}
			if c.complains != "" {
				return run.Result{}, &run.Error{
					Cmd:      "zpool",
					ExitCode: 1,
					Stderr:   c.complains,
					Err:      errors.New("exit status 1"),
				}
			}
			return run.Result{Stdout: []byte(c.says)}, nil
		})}.encryptionProblem(t.Context(), poolFilesystem{name: "tank/a/b", fuse: c.fuse})
		if (err != nil) != c.fails || (lacks == "") != (c.lacks == "") || !strings.Contains(lacks, c.lacks) ||
			lacks != "" && !strings.HasSuffix(lacks, would) {
			t.Errorf("%s: %q, %v", name, lacks, err)
		}
		p := &Pool{fs: poolFilesystem{name: "tank/a/b"}}
		p.keys.problem = lacks
		err = p.checkRequest(dataset.Dataset{Encryption: &dataset.Encryption{}})
		if said := strings.Join(p.missing(), "; "); said != lacks || (err == nil) != (lacks == "") ||
			err != nil && !strings.Contains(err.Error(), lacks) {
			t.Errorf("%s: the pool says %q, and refuses with %v", name, said, err)
		}
	}
}

// fakeZFS imitates the key management of OpenZFS. It records the keys, which arrive only on standard input, and which
// encryption roots have them loaded.
type fakeZFS struct {
	*testing.T
	key     []byte          // the correct key
	loaded  map[string]bool // encryption roots
	mounted bool
}

func (z *fakeZFS) run(_ context.Context, c run.Command) (run.Result, error) {
	for _, arg := range append(c.Args, c.Env...) {
		if bytes.Contains([]byte(arg), z.key) || strings.Contains(arg, hex.EncodeToString(z.key)) {
			z.Errorf("the key stands in %q", c.Args)
		}
	}
	no := func(text string) (run.Result, error) {
		return run.Result{}, &run.Error{Cmd: c.Name, ExitCode: 255, Stderr: text, Err: errors.New("exit status 255")}
	}
	var given []byte
	if c.Stdin != nil {
		given, _ = io.ReadAll(c.Stdin)
	}
	fs := c.Args[len(c.Args)-1]
	switch wrong := !bytes.Equal(given, z.key); {
	case c.Args[0] == "create" && slices.Contains(c.Args, "encryption=aes-256-gcm"):
		z.loaded[fs] = len(given) == keySize
	case c.Args[0] == "load-key" && z.loaded[fs] && !slices.Contains(c.Args, "-n"):
		return no("Key load error: Key already loaded for '" + fs + "'.")
	case c.Args[0] == "load-key" && wrong:
		return no("Key load error: Incorrect key provided for '" + fs + "'.")
	case c.Args[0] == "load-key":
		z.loaded[fs] = true
	case c.Args[0] == "unload-key" && z.mounted:
		return no("Key unload error: '" + fs + "' is busy.")
	case c.Args[0] == "unload-key":
		delete(z.loaded, fs)
	}
	return run.Result{}, nil
}

// A key is passed to ZFS only on standard input. ZFS has the key as long as a dataset that needs it is mounted or about
// to be mounted. A caller with another key is refused nevertheless.
func TestZFSIsGivenKeys(t *testing.T) {
	key, wrong := bytes.Repeat([]byte("k"), keySize), bytes.Repeat([]byte("w"), keySize)
	z := &fakeZFS{T: t, key: key, loaded: map[string]bool{}}
	p := &Pool{tool: tool{fakes.Run(z.run)}, fs: poolFilesystem{name: "tank"}}
	p.keys.held, p.keys.loaded = map[string]int{}, map[string]bool{}
	const root = "tank/a"
	has := func(when string, want bool) {
		t.Helper()
		if z.loaded[root] != want {
			t.Errorf("%s ZFS has the key: %v, want %v", when, z.loaded[root], want)
		}
	}
	ok := func(err error) {
		t.Helper()
		require.NoError(t, err)
	}
	first := p.holdKey(root)
	ok(p.loadKey(t.Context(), root, key))
	second := p.holdKey(root)
	ok(p.loadKey(t.Context(), root, key))
	assert.ErrorIsf(t, p.loadKey(t.Context(), root, wrong), dataset.ErrForbidden, "with another key while it is loaded")
	first()
	first()
	has("while another one is about to mount it", true)
	z.mounted = true
	second()
	has("while it is mounted", true)
	p.unloadIdle()
	has("while it is mounted elsewhere", true)
	z.mounted = false
	p.unloadIdle()
	has("with nothing mounted", false)
	assert.ErrorIsf(t, p.loadKey(t.Context(), root, wrong), dataset.ErrForbidden, "with another key")
	has("after a wrong key", false)

	d := dataset.Dataset{ID: uuid.New(), Encryption: &dataset.Encryption{ID: uuid.New()}}
	p.Shelf = &shelf.Shelf{}
	ok(p.makeRoot(t.Context(), d, key))
	if !z.loaded[p.root(d.ID)] {
		t.Error("a dataset was made without its key")
	}
}

// If the record says that a dataset is encrypted, an unencrypted filesystem is not mounted for it. This holds if ZFS
// has no encryption, if the filesystem is not encrypted, and if it is encrypted with a key of the operator.
func TestPlainInThePlaceOfEncrypted(t *testing.T) {
	for name, c := range map[string]struct {
		lacks, root string
	}{"no encryption": {"", "-"}, "the operator's": {"", "tank"}, "an old ZFS": {"a newer one", "-"}} {
		p := &Pool{tool: tool{fakes.Run(func(context.Context, run.Command) (run.Result, error) {
			return run.Result{Stdout: []byte(c.root + "\n")}, nil
		})}, fs: poolFilesystem{name: "tank"}, Shelf: &shelf.Shelf{}}
		p.keys.problem = c.lacks
		for _, of := range []*dataset.Encryption{nil, {ID: uuid.New()}} {
			root, err := safefile.OpenDir(t.TempDir())
			require.NoError(t, err)
			d := dataset.Dataset{ID: uuid.New(), Encryption: of}
			f := &shelf.Folder{Dir: root, ID: d.ID}
			require.NoError(t, f.WriteRecord(d, false))
			if _, err := p.unlock(t.Context(), f,
				p.root(d.ID)+"/head"); errors.Is(err, dataset.ErrCorrupt) != (of != nil) || of == nil && err != nil {
				t.Errorf("%s, encrypted %v: %v", name, of != nil, err)
			}
			assert.NoError(t, root.Close())
		}
	}
}

// A zpool is trimmed by zpool(8), also by an old version. If no device supports trim, that is not an error.
func TestTrimOfAZpool(t *testing.T) {
	const mute = "cannot trim 'tank': no devices in pool support trim operations"
	for name, c := range map[string]struct {
		waits, plain string // the error messages
		want         error
		ran          int
	}{
		"trimmed":      {"", "", nil, 1},
		"an old zpool": {"invalid option 'w'", "", nil, 2},
		"cannot be":    {mute, mute, errors.ErrUnsupported, 1},
		"old, and not": {"invalid option 'w'", mute, errors.ErrUnsupported, 2},
	} {
		ran := 0
		p := &Pool{fs: poolFilesystem{name: "tank/a"}, tool: tool{fakes.Run(func(_ context.Context,
			cmd run.Command) (run.Result, error) {
			ran++
			complains := c.plain
			if slices.Contains(cmd.Args, "-w") {
				complains = c.waits
			}
			if cmd.Name != "zpool" || cmd.Args[0] != "trim" || cmd.Args[len(cmd.Args)-1] != "tank" {
				t.Errorf("ran %s %q", cmd.Name, cmd.Args)
			}
			if complains != "" {
				return run.Result{}, &run.Error{
					Cmd:      "zpool",
					ExitCode: 1,
					Stderr:   complains,
					Err:      errors.New("exit status 1"),
				}
			}
			return run.Result{}, nil
		})}}
		if _, err := p.Trim(t.Context()); !errors.Is(err, c.want) || ran != c.ran {
			t.Errorf("%s: %v after %d commands, want %v after %d", name, err, ran, c.want, c.ran)
		}
	}
}

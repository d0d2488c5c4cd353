package move

import (
	"errors"
	"io"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/google/uuid"
	"pgregory.net/rapid"

	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/tree"
	"github.com/droverhq/drover/internal/tree/treetest"
	"github.com/droverhq/drover/test/assert"
)

// Between pools of different backends the tree stays the same: owners, modes, attributes, ACLs, hard links, holes,
// devices, sockets.
func TestFilesBetweenUnlikePools(t *testing.T) {
	for name, kinds := range map[string][2]string{"loop to dir": {"xfs", "ext4"}, "dir to loop": {"ext4", "xfs"}, "dir to dir": {"ext4", "ext4"}} {
		t.Run(name, func(t *testing.T) {
			quiet(t)
			nodes := make([]*node, 2)
			for i, fstype := range kinds {
				nodes[i] = newNode(t, fstype, 1<<30)
			}
			a, b := nodes[0], nodes[1]
			size := map[string]dataset.Size{"xfs": 512 * dataset.MiB}
			d := a.create(size[kinds[0]])
			a.mounted(d.ID, func(at string) { treetest.Plant(t, at) })
			to := b.create(size[kinds[1]])
			a.open(d.ID, func(here *os.File) {
				m, err := SumFiles(t.Context(), here, io.Discard)
				must(t, err)
				b.open(to.ID, func(there *os.File) {
					var told int64
					f := Files{Peer: a.http.URL, Dataset: d.ID, Into: there, Manifest: &m, Progress: func(done, total int64) {
						if done < told || done > total {
							t.Errorf("%d, then %d of %d", told, done, total)
						}
						told = done
					}}
					got, err := b.client.PullFiles(t.Context(), f)
					if err != nil || got != m || told == 0 {
						t.Fatalf("%+v, %v, want %+v", got, err, m)
					}
					found, err := tree.Compare(t.Context(), here, there)
					must(t, err)
					for _, d := range found[:min(len(found), 20)] {
						t.Errorf("differs: %s", d)
					}
					if _, err := b.client.PullFiles(t.Context(), f); !errors.Is(err, dataset.ErrExists) {
						t.Errorf("over existing data: %v", err)
					}
				})
			})
		})
	}
}

// C5: after cuts a file transfer starts again from the beginning, and leaves nothing else behind. After flips it may
// also fail, and then it leaves nothing. It never leaves other files than were sent.
func TestC5FilesCutsAndFlips(t *testing.T) {
	quiet(t)
	a, b := newNode(t, "ext4", 512<<20), newNode(t, "ext4", 512<<20)
	b.client.Clock = hasty{}
	d := a.create(0)
	a.write(d.ID, "one", treetest.Bytes(1, 3<<20))
	a.write(d.ID, "two", treetest.Bytes(2, 100_000))
	a.open(d.ID, func(here *os.File) {
		m, err := SumFiles(t.Context(), here, io.Discard)
		must(t, err)
		rapid.Check(t, func(rt *rapid.T) {
			flips := rapid.SliceOfN(rapid.Bool(), 0, 4).Draw(rt, "flips")
			at := rapid.SliceOfN(rapid.Int64Range(0, 4<<20), len(flips), len(flips)).Draw(rt, "at")
			n := 0
			b.wire.set(func(body io.ReadCloser) io.ReadCloser {
				if n == len(flips) {
					return body
				}
				n++
				if flips[n-1] {
					return &flipper{body, at[n-1]}
				}
				return &cutter{body, at[n-1]}
			})
			to := b.create(0)
			b.open(to.ID, func(there *os.File) {
				got, err := b.client.PullFiles(t.Context(), Files{Peer: a.http.URL, Dataset: d.ID, Into: there, Manifest: &m})
				if err != nil {
					left, nErr := names(there)
					if !slices.Contains(flips, true) || nErr != nil || len(left) > 0 {
						rt.Fatalf("%v, and %q are left, %v", err, left, nErr)
					}
					return
				}
				if got != m {
					rt.Fatalf("%+v, want %+v", got, m)
				}
				if found, err := tree.Compare(t.Context(), here, there); err != nil || len(found) > 0 {
					rt.Fatalf("differs: %v, %v", found, err)
				}
			})
			must(t, b.pool.Delete(t.Context(), to.ID))
		})
		b.wire.set(nil)
		wrong := m
		wrong.SHA256 = strings.Repeat("0", 64)
		to := b.create(0)
		b.open(to.ID, func(there *os.File) {
			_, err := b.client.PullFiles(t.Context(), Files{Peer: a.http.URL, Dataset: d.ID, Into: there, Manifest: &wrong})
			if !errors.Is(err, dataset.ErrCorrupt) || strings.Contains(err.Error(), "\n") {
				t.Errorf("with another manifest: %v", err)
			}
			a.denied = dataset.Errorf(dataset.ErrForbidden, "node b may not have it")
			_, err = b.client.PullFiles(t.Context(), Files{Peer: a.http.URL, Dataset: d.ID, Snapshot: uuid.Nil, Into: there})
			assert.ErrorIsf(t, err, dataset.ErrForbidden, "denied")
			left, err := names(there)
			if err != nil || len(left) > 0 {
				t.Errorf("left over: %q, %v", left, err)
			}
		})
	})
}

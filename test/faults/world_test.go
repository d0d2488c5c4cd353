package faults

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/linux/loopdev"
	"github.com/droverhq/drover/internal/linux/mount"
	"github.com/droverhq/drover/internal/scratch"
	"github.com/droverhq/drover/test/assert"
	"github.com/droverhq/drover/test/host"
	"github.com/droverhq/drover/test/require"
)

// profiles are the profiles of all tests here: small volumes, and what the steps need.
const profiles = `default: plain
profiles:
  plain: {on_delete: {trash: 24h}}
  frozen: {size: 320MiB, on_delete: {trash: 24h}}
  sized: {size: 320MiB, on_delete: {trash: 24h}}
  gone: {on_delete: purge}
`

// world is a Drover and what it has acknowledged. Exactly that must exist, whatever breaks.
type world struct {
	h    *host.Host
	plug *host.Plug

	volumes   map[string]string // the text of each volume, by its name
	snapshots map[string]string // by VOLUME/NAME
	trash     map[string]string // by the former name
	inUse     []string          // volumes in use by a container
}

func newWorld(t testing.TB, o host.Options) *world {
	t.Helper()
	if o.Profiles == "" {
		o.Profiles = profiles
	}
	if o.Pool == "dir" { // on a separate disk, because the machine's disk may be nearly full
		o.Root = filepath.Join(scratch.Mount(t, "ext4", 1<<30), "root")
		o.Config = fmt.Sprintf("pools: [{name: default, backend: dir, path: %s/pool}]\n", o.Root)
	}
	h := host.Start(t, o)
	return &world{h: h, plug: h.Plug(t), volumes: map[string]string{}, snapshots: map[string]string{}, trash: map[string]string{}}
}

// make creates a volume and writes a text into it, through the plugin.
func (w *world) make(t testing.TB, name, profile, text string) {
	t.Helper()
	w.ok(t, w.plug.Create(name, map[string]string{"profile": profile}))
	w.write(t, name, text)
}

// ok ends the test at an error.
func (w *world) ok(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatalf("%v\n%s", err, w.h.LogTail(20))
	}
}

// write writes a text into a volume and remembers it.
func (w *world) write(t testing.TB, name, text string) {
	t.Helper()
	w.plug.Within(t, name, func(root string) { w.ok(t, fill(root, text)) })
	w.volumes[name] = text
}

// holds fails unless a volume contains exactly that text.
func (w *world) holds(t testing.TB, name, text string) {
	t.Helper()
	w.plug.Within(t, name, func(root string) {
		assert.NoErrorf(t, compare(root, text), "volume %s", name)
	})
}

// blockSize makes content span several blocks.
const blockSize = 16 << 10

// block returns content that differs for each text and cannot be compressed.
func block(text string) []byte {
	seed := [32]byte{}
	copy(seed[:], text)
	b := make([]byte, blockSize)
	_, _ = rand.NewChaCha8(seed).Read(b)
	return b
}

// fill makes a folder contain a text, on disk.
func fill(root, text string) error {
	for name, b := range map[string][]byte{"text": []byte(text), "block": block(text)} {
		if err := writeFile(filepath.Join(root, name), b); err != nil {
			return err
		}
	}
	d, err := os.Open(root)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

func writeFile(path string, b []byte) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	_, err = f.Write(b)
	return errors.Join(err, f.Sync(), f.Close())
}

// compare returns what is wrong with a folder that should contain a text. An empty folder contains the empty text.
func compare(root, text string) error {
	got, err := os.ReadFile(filepath.Join(root, "text"))
	if text == "" && errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if string(got) != text {
		return fmt.Errorf("it holds %q, want %q", got, text)
	}
	b, err := os.ReadFile(filepath.Join(root, "block"))
	if err == nil && !bytes.Equal(b, block(text)) {
		err = fmt.Errorf("its text is %q, but its block is not", text)
	}
	return err
}

// submit has an operation carried out through the API and waits for its end.
func (w *world) submit(t testing.TB, req api.Request) error {
	t.Helper()
	c := w.h.Client(t)
	defer c.Close()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	out, err := c.Submit(ctx, req)
	if err != nil || out.Operation == nil {
		return err
	}
	op := *out.Operation
	for !op.State.Final() {
		if op, err = c.Operation(ctx, op.ID.String(), 10*time.Second); err != nil {
			return err
		}
	}
	return op.Problem.Err()
}

// snapshot takes a snapshot and remembers its contents.
func (w *world) snapshot(t testing.TB, volume, name string) {
	t.Helper()
	w.ok(t, w.submit(t, api.Request{Kind: dataset.OpSnapshot, Volume: volume, Name: name}))
	w.snapshots[volume+"/"+name] = w.volumes[volume]
}

// drop removes a volume with its snapshots, without the trash.
func (w *world) drop(t testing.TB, name string) {
	t.Helper()
	v := w.volume(t, name)
	w.ok(t, w.submit(t, api.Request{Kind: dataset.OpDelete, Volume: name, Force: true}))
	if v.Profile.OnDelete.Mode != dataset.DeletePurge {
		w.ok(t, w.submit(t, api.Request{Kind: dataset.OpPurge, Volume: v.ID.String()}))
	}
	w.forget(name)
}

// forget removes a volume and its snapshots from what must exist.
func (w *world) forget(name string) {
	delete(w.volumes, name)
	maps.DeleteFunc(w.snapshots, func(k, _ string) bool { return strings.HasPrefix(k, name+"/") })
}

func (w *world) volume(t testing.TB, ref string) api.Volume {
	t.Helper()
	c := w.h.Client(t)
	defer c.Close()
	v, err := c.Volume(t.Context(), ref)
	w.ok(t, err)
	return v
}

// settled waits until no operation is in progress.
func (w *world) settled(t testing.TB) {
	t.Helper()
	c := w.h.Client(t)
	defer c.Close()
	host.Await(t, "all operations end", func() error {
		ops, err := c.Operations(t.Context(), api.Page{})
		if err != nil {
			return err
		}
		for _, op := range ops.Items {
			if !op.State.Final() {
				return fmt.Errorf("operation %s (%s of %s) is %s", op.ID, op.Kind, op.Volume, op.State)
			}
		}
		return nil
	})
}

// kept fails unless exactly what was acknowledged exists.
func (w *world) kept(t testing.TB) {
	t.Helper()
	w.listed(t)
	for name, text := range w.volumes {
		w.holds(t, name, text)
	}
	for key, text := range w.snapshots {
		w.snapshotHolds(t, key, text)
	}
}

// listed fails unless exactly the names of what was acknowledged exist.
func (w *world) listed(t testing.TB) {
	t.Helper()
	c := w.h.Client(t)
	defer c.Close()
	volumes, err := c.Volumes(t.Context(), api.Page{})
	w.ok(t, err)
	trash, err := c.Trash(t.Context(), api.Page{})
	w.ok(t, err)
	snapshots, err := c.Snapshots(t.Context(), "", api.Page{})
	w.ok(t, err)
	of := map[string]string{}
	var names, deleted, taken []string
	for _, v := range volumes.Items {
		names = append(names, v.Volume)
		of[v.ID.String()] = v.Volume
	}
	for _, v := range trash.Items {
		deleted = append(deleted, v.Volume)
	}
	for _, s := range snapshots.Items {
		if v, live := of[s.Dataset.String()]; live && s.Name != "" {
			taken = append(taken, v+"/"+s.Name)
		}
	}
	for what, lists := range map[string][2][]string{
		"volumes":   {slices.Sorted(maps.Keys(w.volumes)), slices.Sorted(slices.Values(names))},
		"trash":     {slices.Sorted(maps.Keys(w.trash)), slices.Sorted(slices.Values(deleted))},
		"snapshots": {slices.Sorted(maps.Keys(w.snapshots)), slices.Sorted(slices.Values(taken))},
	} {
		if diff := cmp.Diff(lists[0], lists[1]); diff != "" {
			t.Errorf("%s (-promised +found):\n%s", what, diff)
		}
	}
}

// snapshotHolds fails unless a clone of a snapshot contains exactly that text.
func (w *world) snapshotHolds(t testing.TB, key, text string) {
	t.Helper()
	volume, name, _ := strings.Cut(key, "/")
	c := w.h.Client(t)
	defer c.Close()
	s, err := c.Snapshot(t.Context(), volume, name)
	w.ok(t, err)
	spec := "look@snapshot-" + s.ID.String()
	w.ok(t, w.plug.Create(spec, nil))
	w.holds(t, spec, text)
	w.drop(t, "look")
}

// tidy fails if something is left over: in the findings of doctor, in the pool, or among the mounts and loop devices.
// The volumes in use must be mounted.
func (w *world) tidy(t testing.TB) {
	t.Helper()
	w.h.Clean(t)
	var want []string
	for _, name := range w.inUse {
		want = append(want, w.volume(t, name).ID.String())
	}
	if diff := cmp.Diff(slices.Sorted(slices.Values(want)), w.mounted(t)); diff != "" {
		t.Errorf("mounted datasets (-want +got):\n%s", diff)
	}
	host.Await(t, "no loop device is left over", func() error {
		devices, err := loopdev.List()
		if err != nil {
			return err
		}
		n := 0
		for _, d := range devices {
			if strings.HasPrefix(d.Backing, w.h.Root+"/pools/default/") {
				n++
			}
		}
		if attached := w.withDevice(t, want); n != attached {
			return fmt.Errorf("%d loop devices for %d mounted images: %v", n, attached, devices)
		}
		return nil
	})
	// The record next to a dataset follows a change after the change was answered.
	host.Await(t, "nothing is left over", func() error {
		if left := w.leftovers(t); len(left) > 0 {
			return fmt.Errorf("left over: %s", left)
		}
		return nil
	})
}

// withDevice counts the mounted datasets that have a device.
func (w *world) withDevice(t testing.TB, datasets []string) int {
	t.Helper()
	table, err := mount.Table()
	require.NoError(t, err)
	n := 0
	for _, id := range datasets {
		if m := table.At(filepath.Join(w.h.Root, "mnt", id)); m != nil && strings.HasPrefix(m.Source, "/dev/loop") && m.Root == "/" {
			n++
		}
	}
	return n
}

// mounted returns the datasets that are mounted, sorted.
func (w *world) mounted(t testing.TB) []string {
	t.Helper()
	var ids []string
	for _, path := range w.mountPaths(t) {
		ids = append(ids, filepath.Base(path))
	}
	slices.Sort(ids)
	return ids
}

// mountPaths returns the mount points of datasets.
func (w *world) mountPaths(t testing.TB) (paths []string) {
	t.Helper()
	table, err := mount.Table()
	require.NoError(t, err)
	for _, m := range table.Under(filepath.Join(w.h.Root, "mnt")) {
		paths = append(paths, m.Mountpoint)
	}
	return paths
}

// poolPath is the path of the host's pool.
func (w *world) poolPath(t testing.TB, name string) string {
	t.Helper()
	return w.pool(t, name).Path
}

func (w *world) pool(t testing.TB, name string) api.Pool {
	t.Helper()
	c := w.h.Client(t)
	defer c.Close()
	pools, err := c.Pools(t.Context())
	w.ok(t, err)
	i := slices.IndexFunc(pools, func(p api.Pool) bool { return p.Name == name })
	if i < 0 {
		t.Fatalf("no pool %s in %+v", name, pools)
	}
	return pools[i]
}

// leftovers reads the default pool itself, and returns what is neither on record nor named by doctor.
func (w *world) leftovers(t testing.TB) []string {
	t.Helper()
	c := w.h.Client(t)
	defer c.Close()
	known := map[string]bool{}
	for _, list := range []func() (api.List[api.Volume], error){
		func() (api.List[api.Volume], error) { return c.Volumes(t.Context(), api.Page{}) },
		func() (api.List[api.Volume], error) { return c.Trash(t.Context(), api.Page{}) },
	} {
		l, err := list()
		w.ok(t, err)
		for _, v := range l.Items {
			known[v.ID.String()] = true
		}
	}
	snapshots, err := c.Snapshots(t.Context(), "", api.Page{})
	w.ok(t, err)
	for _, s := range snapshots.Items {
		known[s.ID.String()] = true
	}
	findings, err := c.Doctor(t.Context())
	w.ok(t, err)
	said := fmt.Sprint(findings)
	path := w.poolPath(t, "default")
	var left []string
	for _, area := range []string{"incoming", "deleting", "templates", "datasets"} {
		for _, name := range names(t, filepath.Join(path, area)) {
			where := filepath.Join(area, name)
			id, _, _ := strings.Cut(name, ".")
			switch {
			case strings.Contains(said, id):
			case area == "templates" && !strings.HasSuffix(name, ".tmp"):
			case area == "datasets" && known[id]:
				left = append(left, inside(t, filepath.Join(path, where), known)...)
			default:
				left = append(left, where)
			}
		}
	}
	return left
}

// inside returns the entries of a dataset's folder that should not be there: temporary files, and snapshots without a
// record.
func inside(t testing.TB, dir string, known map[string]bool) (left []string) {
	t.Helper()
	for _, name := range names(t, dir) {
		id, _, _ := strings.Cut(strings.TrimPrefix(strings.TrimPrefix(name, "snapshot-"), "head-"), ".")
		_, err := uuid.Parse(id)
		if strings.HasPrefix(name, "tmp-") || strings.HasPrefix(name, "next") || (err == nil && !known[id]) {
			left = append(left, filepath.Join(filepath.Base(dir), name))
		}
	}
	return left
}

// names lists a folder. A missing folder has no names.
func names(t testing.TB, dir string) (list []string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
	for _, e := range entries {
		list = append(list, e.Name())
	}
	return list
}

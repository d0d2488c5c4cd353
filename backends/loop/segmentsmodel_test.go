package loop

import (
	"context"
	"errors"
	"flag"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/uuid"
	"golang.org/x/sys/unix"
	"pgregory.net/rapid"

	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/backends/loop/layout"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/claims"
	"github.com/droverhq/drover/internal/long"
)

// The model writes to a file of this size in a small ext4.
const (
	modelFile = 6 << 20
	modelSize = 24 * dataset.MiB
)

// segmentsModel is a dataset whose images are divided into segments in a random order.
type segmentsModel struct {
	*fixture
	d       dataset.Dataset
	sources []modelSource // the head, and then the snapshots
}

// modelSource is an image that can be divided, and the size that its dataset had.
type modelSource struct {
	dataset.Source
	size dataset.Size
}

// After random changes of a volume, interrupted updates and removals of segments, the segments that a complete update
// has made equal the image that it divided. Each case begins with two snapshots with different content.
func TestSegmentsModel(t *testing.T) {
	fewerCases(t)
	onPools(t, func(f *fixture) {
		rapid.Check(f.T, func(rt *rapid.T) {
			m := &segmentsModel{fixture: f, d: newDataset(ext4)}
			m.d.Size = modelSize
			f.create(m.d)
			defer func() { f.must(f.Delete(f.Context(), m.d.ID)) }()
			m.sources = []modelSource{{head0(m.d), modelSize}}
			f.put(m.d.ID, "file", noise(modelFile))
			m.takeSnapshot()
			f.put(m.d.ID, "file", noise(modelFile))
			m.takeSnapshot()
			rt.Repeat(map[string]func(*rapid.T){
				"write":     m.write,
				"snapshot":  func(*rapid.T) { m.takeSnapshot() },
				"forget":    m.deleteSnapshot,
				"grow":      m.grow,
				"update":    func(rt *rapid.T) { m.update(rt, m.source(rt)) },
				"interrupt": func(rt *rapid.T) { m.interrupt(rt, m.source(rt)) },
				"return":    m.updateAgain,
				"lose base": func(*rapid.T) { m.removeFile("base") },
				"reap":      m.reap,
			})
			m.updateAgain(rt)
		})
	})
}

// fewerCases makes rapid try 2 cases of about 15 steps in the short form, and 20 of about 30 steps in the long form. A
// step takes about a tenth of a second. Numbers in the arguments of the test program have precedence.
func fewerCases(t *testing.T) {
	t.Helper()
	values := map[string]string{"rapid.checks": "2", "rapid.steps": "15"}
	if long.Enabled() {
		values = map[string]string{"rapid.checks": "20"}
	}
	for name, value := range values {
		f := flag.Lookup(name)
		if f.Value.String() != f.DefValue {
			continue
		}
		if err := flag.Set(name, value); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = flag.Set(name, f.DefValue) })
	}
}

// source draws the head or a snapshot.
func (m *segmentsModel) source(rt *rapid.T) modelSource {
	return rapid.SampledFrom(m.sources).Draw(rt, "source")
}

// write overwrites a part of the file, or frees its blocks.
func (m *segmentsModel) write(rt *rapid.T) {
	at := rapid.Int64Range(0, modelFile/4096-1).Draw(rt, "block") * 4096
	n := rapid.Int64Range(1, 300_000).Draw(rt, "bytes")
	hole := rapid.Bool().Draw(rt, "hole")
	root, unmount := m.mounted(m.d.ID)
	defer unmount()
	file, err := os.OpenFile(filepath.Join(root, "file"), os.O_WRONLY, 0)
	m.must(err)
	if hole {
		err = unix.Fallocate(int(file.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, at, n)
	} else {
		_, err = file.WriteAt([]byte(noise(int(n))), at)
	}
	m.must(errors.Join(err, file.Sync(), file.Close()))
}

func (m *segmentsModel) takeSnapshot() {
	s := m.fixture.takeSnapshot(m.d)
	m.sources = append(m.sources, modelSource{at(s), m.d.Size})
}

// deleteSnapshot deletes a snapshot, so that its blocks can be used again. Two snapshots stay.
func (m *segmentsModel) deleteSnapshot(rt *rapid.T) {
	if len(m.sources) < 4 {
		rt.Skip("too few snapshots")
	}
	i := rapid.IntRange(1, len(m.sources)-1).Draw(rt, "snapshot")
	m.must(m.DeleteSnapshot(m.Context(), m.d.ID, m.sources[i].Snapshot))
	m.sources = append(m.sources[:i:i], m.sources[i+1:]...)
}

func (m *segmentsModel) grow(rt *rapid.T) {
	if m.d.Size > 3*modelSize {
		rt.Skip("it is large enough")
	}
	m.d.Size += dataset.Size(rapid.Int64Range(1, 3000).Draw(rt, "blocks")) * 4096
	m.must(m.Resize(m.Context(), m.d.ID, m.d.Size, nil))
	m.must(m.WriteRecord(m.Context(), m.d, true))
	m.sources[0].size = m.d.Size
}

// update divides an image, and compares the segments with it. Segments that are not released stay.
func (m *segmentsModel) update(rt *rapid.T, src modelSource) {
	clone := m.cloneOf(src)
	defer func() { m.must(m.Delete(m.Context(), clone.ID)) }()
	is, err := m.Segments(m.Context(), m.d.ID, clone.ID)
	m.must(err)
	defer is.Release()
	if rapid.Bool().Draw(rt, "reap") {
		if n, err := m.ReapSegments(m.Context()); n != 0 || err != nil {
			rt.Fatalf("during a backup: removed %d, %v", n, err)
		}
	}
	if err := m.compare(is, clone); err != nil {
		rt.Fatal(err)
	}
}

func (m *segmentsModel) cloneOf(src modelSource) dataset.Dataset {
	clone := m.d
	clone.ID, clone.Size = uuid.New(), src.size
	m.clone(clone, src.Source)
	return clone
}

// interrupt interrupts the division of an image: as a crash would, or by its context between two segments.
func (m *segmentsModel) interrupt(rt *rapid.T, src modelSource) {
	step := rapid.SampledFrom([]string{"begun", "replace", "replaced"}).Draw(rt, "step")
	count := rapid.IntRange(1, 6).Draw(rt, "count")
	clone := m.cloneOf(src)
	defer func() { m.must(m.Delete(m.Context(), clone.ID)) }()
	ctx, cancel := context.WithCancel(m.Context())
	defer cancel()
	m.crash(func(now string, crash func()) {
		switch {
		case now != "loop.segments."+step:
		case step != "replace":
			crash()
		default:
			if count--; count == 0 {
				cancel()
			}
		}
	}, func() {
		if is, err := m.Segments(ctx, m.d.ID, clone.ID); err == nil {
			is.Release() // it had too few segments to replace
		} else if !errors.Is(err, context.Canceled) {
			rt.Fatal(err)
		}
	})
}

// updateAgain divides an image after the division of another one was interrupted. The segments of the first image must
// not be taken for present.
func (m *segmentsModel) updateAgain(rt *rapid.T) {
	both := rapid.Permutation(m.sources).Draw(rt, "sources")
	m.update(rt, both[0])
	m.interrupt(rt, both[1])
	m.update(rt, both[0])
}

// reap removes all segments, or crashes meanwhile.
func (m *segmentsModel) reap(rt *rapid.T) {
	crashes := rapid.Bool().Draw(rt, "crashes")
	lost := rapid.Int64Range(0, 8).Draw(rt, "lost")
	m.crash(func(now string, crash func()) {
		if crashes && now == "loop.segments.forgotten" {
			m.removeFile(filepath.Join("parts", backends.SegmentPath(lost)))
			crash()
		}
	}, func() {
		_, err := m.ReapSegments(m.Context())
		m.must(err)
		if _, err := os.Stat(m.folder()); !errors.Is(err, fs.ErrNotExist) {
			rt.Fatalf("after ReapSegments: %v", err)
		}
	})
}

// crash runs do. step is called at each step, and can call crash, which ends do. After a crash, no backup runs.
func (m *segmentsModel) crash(step func(now string, crash func()), do func()) {
	crashed := new(int)
	m.backend.step = func(now string) { step(now, func() { panic(crashed) }) }
	defer func() {
		m.backend.step = func(string) {}
		switch p := recover(); p {
		case nil:
		case crashed:
			m.backend.backups = claims.Claims{}
		default:
			panic(p)
		}
	}()
	do()
}

// folder is the folder with the segments of the dataset.
func (m *segmentsModel) folder() string {
	return filepath.Join(m.disk, "pool", layout.Segments, m.d.ID.String())
}

// removeFile removes a file from the folder of the segments, if it exists.
func (m *segmentsModel) removeFile(name string) {
	if err := os.Remove(filepath.Join(m.folder(), name)); !errors.Is(err, fs.ErrNotExist) {
		m.must(err)
	}
}

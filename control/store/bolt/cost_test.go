package bolt_test

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/droverhq/drover/control/store"
	"github.com/droverhq/drover/control/store/bolt"
)

// written returns how many bytes this process has written (wchar of proc(5)).
func written(t *testing.T) (n int) {
	t.Helper()
	b, err := os.ReadFile("/proc/self/io")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(b), "wchar:")
	if _, err := fmt.Sscan(rest, &n); err != nil {
		t.Fatal(err)
	}
	return n
}

// costOfChange returns how many bytes one change of one of n datasets writes.
func costOfChange(t *testing.T, s *bolt.Store, n int) int {
	t.Helper()
	const changes = 200
	before := written(t)
	for i := range changes {
		put(t, s, store.Write{Key: fmt.Sprintf("datasets/%06d", i*7919%n), Value: make([]byte, 900)})
	}
	return (written(t) - before) / changes
}

// D2: with 40,000 datasets, and after they were removed, a change costs the same as with 1,000. That would not hold
// if a list of free pages, or one value with everything, were written with every commit.
func TestCostOfOneChange(t *testing.T) {
	const few, many = 1000, 40_000
	s := open(t, pathIn(t.TempDir()))
	fill := func(from, to int, remove bool) {
		t.Helper()
		for n := from; n < to; n += 100 {
			var writes []store.Write
			for i := n; i < n+100; i++ {
				w := store.Write{Key: fmt.Sprintf("datasets/%06d", i), Delete: remove}
				if !remove {
					w.Value = make([]byte, 900)
				}
				writes = append(writes, w)
			}
			put(t, s, writes...)
		}
	}
	fill(0, few, false)
	base := costOfChange(t, s, few)
	fill(few, many, false)
	if cost := costOfChange(t, s, many); cost > 2*base {
		t.Errorf("a change writes %d bytes among %d datasets, %d among %d", cost, many, base, few)
	}
	fill(few, many, true)
	if cost := costOfChange(t, s, few); cost > 2*base {
		t.Errorf("a change writes %d bytes after %d datasets have gone, %d before they came", cost, many-few, base)
	}
	t.Logf("%d bytes a change", base)
}

// Opening reads every page of the file and keeps none of them mapped in, because idle memory must not grow with the
// store.
func TestOpenLeavesNoMemory(t *testing.T) {
	path := pathIn(t.TempDir())
	s := open(t, path)
	for n := range 30 {
		put(t, s, store.Write{Key: fmt.Sprint("k/", n), Value: make([]byte, store.MaxValue)})
		for i := range 100 {
			put(t, s, set(fmt.Sprintf("small/%d/%d", n, i), strings.Repeat("x", 900)))
		}
	}
	shut(t, s)
	s = open(t, path)
	size := int(s.Stats().FileBytes >> 10)
	if rss := resident(t, path); rss > size/8 { // some pages next to those that were needed
		t.Errorf("%d KiB of %d are resident", rss, size)
	}
	all(t, s)
	if rss := resident(t, path); rss < size/4 {
		t.Errorf("after everything was read, %d KiB are resident: this test looks at the wrong mapping", rss)
	}
}

// resident returns how many KiB of a mapped file are in memory for this process (Rss in /proc/self/smaps, proc(5)).
func resident(t *testing.T, path string) (kib int) {
	t.Helper()
	b, err := os.ReadFile("/proc/self/smaps")
	if err != nil {
		t.Fatal(err)
	}
	_, mapping, ok := strings.Cut(string(b), path+"\n")
	if !ok {
		t.Fatalf("%s is not mapped", path)
	}
	_, rest, _ := strings.Cut(mapping, "Rss:")
	if _, err := fmt.Sscan(rest, &kib); err != nil {
		t.Fatal(err)
	}
	return kib
}

package bolt

import (
	"bytes"
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"

	"go.etcd.io/bbolt"
	"golang.org/x/sys/unix"

	"github.com/droverhq/drover/control/store"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/run"
)

const (
	// checkerArg is the argument of the child that checks a file.
	checkerArg = "check-store-in-descriptor-3"
	// checkTimeout bounds the check on a disk that hangs. It is long, because reading a large file from a slow disk is
	// not an error.
	checkTimeout = 10 * time.Minute
)

// init makes every program that can open a store the child that checks the file, also the test binary of each package.
func init() { //nolint:gochecknoinits // a call in main and in each TestMain could be forgotten
	if len(os.Args) == 2 && os.Args[1] == checkerArg {
		os.Exit(runChecker(os.NewFile(3, "store")))
	}
}

// contents is the content of a file.
type contents struct {
	schema  int // 0 if bbolt created the file, and nothing was written yet
	index   uint64
	entries int
	damaged int // records that do not parse
}

// check checks a file, and returns its content. It fails with dataset.ErrCorrupt if the structure of the file is
// damaged, and only counts damaged records, because the others can still be used.
func (s *Store) check(ctx context.Context, f *os.File) (contents, error) {
	c, err := checkInChild(ctx, f)
	switch {
	case errors.Is(err, dataset.ErrCorrupt):
		err = dataset.Errorf(dataset.ErrCorrupt,
			"store %s is damaged or foreign: %w (put back a backup, or move the file away and run drover "+
				"store recover --from-pools)", s.path, err)
	case err == nil && c.schema > schema:
		err = dataset.Errorf(dataset.ErrUnsupported,
			"store %s was written by a newer drover (schema %d, this one reads up to %d): run that version, "+
				"or put back a backup", s.path, c.schema, schema)
	}
	return c, err
}

// checkInChild checks a file in a child process: bbolt reads the file through a mapping and in its own goroutines,
// where a damaged page ends the process. If checkInChild succeeds, bbolt can open the file. The child makes an opening
// slower by 5 ms, and by 14 ms with 10,000 datasets.
//
// Only dataset.ErrCorrupt means that the file is damaged. The daemon replaces a damaged file, so a child that found no
// memory, for example, is another error.
func checkInChild(ctx context.Context, f *os.File) (c contents, err error) {
	info, err := f.Stat()
	if err != nil {
		return c, err
	}
	if info.Size() < 2*pageSize {
		return c, corrupt("it ends after %d bytes", info.Size())
	}
	head := run.NewHead(300) // bbolt can write kilobytes about a key
	result, err := new(run.System).Run(ctx, run.Command{
		Name: "/proc/self/exe", Args: []string{checkerArg}, Timeout: checkTimeout, Files: []*os.File{f},
		// bbolt has a data race when it finds damage. The race detector must not report it in place of the damage.
		Env:            []string{"GOTRACEBACK=none", "GORACE=report_bugs=0"},
		KillWithParent: true, Stderr: head,
	})
	if err == nil {
		_, err = fmt.Sscan(string(result.Stdout), &c.schema, &c.index, &c.entries, &c.damaged)
		return c, err
	}
	line, _, _ := strings.Cut(string(head.Bytes()), "\n")
	reason, panicked := strings.CutPrefix(line, "panic: ")
	if !panicked && !strings.HasPrefix(line, "unexpected fault address ") {
		return c, fmt.Errorf("check the file: %w: %s (try again when the host has memory and the disk responds, "+
			"or put back a backup)", errors.Unwrap(err), line)
	}
	// A page that the disk cannot read ends the child like a damaged one. Only a file that can be read is damaged.
	if _, err := io.Copy(io.Discard, io.NewSectionReader(f, 0, info.Size())); err != nil {
		return c, err
	}
	if !panicked {
		reason = "a page is outside of the file, which may have been cut off"
	}
	return c, corrupt("%s", reason)
}

// runChecker is the child. Whatever finds damage in the file panics. The result is the exit status.
func runChecker(f *os.File) int {
	limitMemory(f)
	c, err := readFile(f)
	if errors.As(err, new(syscall.Errno)) {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	if err != nil {
		panic(err)
	}
	fmt.Println(c.schema, c.index, c.entries, c.damaged)
	return 0
}

// limitMemory limits the memory that the check of a file may use, because one damaged page can claim billions of pages.
// The check needs about 300 bytes for each page. limitMemory ignores errors: an existing lower limit is sufficient.
func limitMemory(f *os.File) {
	var size int64
	if info, err := f.Stat(); err == nil {
		size = info.Size()
	}
	var other, pages uint64
	text, _ := os.ReadFile("/proc/self/statm") // the sixth number is the data in pages (proc_pid_statm(5))
	_, _ = fmt.Sscan(string(text), &other, &other, &other, &other, &other, &pages)
	limit := pages*uint64(os.Getpagesize()) + 128<<20 + uint64(size)/8
	_ = unix.Setrlimit(unix.RLIMIT_DATA, &unix.Rlimit{Cur: limit, Max: limit})
}

// readFile checks the structure of a file with bbolt, and reads its content. It does not close the database, because
// that would release the lock, which the parent shares.
func readFile(f *os.File) (c contents, err error) {
	// A read-only database would turn the exclusive lock of the parent into a shared one. Opening writes nothing to a
	// file that is not empty.
	db, err := bbolt.Open(f.Name(), 0, options(func(string, int, os.FileMode) (*os.File, error) { return f, nil }))
	if err != nil {
		return c, err
	}
	info, err := f.Stat()
	if err != nil {
		return c, err
	}
	err = db.View(func(tx *bbolt.Tx) error {
		if n := db.Info().PageSize; n != pageSize {
			return corrupt("it has pages of %d bytes", n)
		}
		if tx.Size() > info.Size() {
			return corrupt("it was cut off: %d bytes are too few for %d pages", info.Size(), tx.Size()/pageSize)
		}
		var damage error
		for err := range tx.Check() {
			damage = cmp.Or(damage, err)
		}
		if damage != nil {
			return damage
		}
		return c.read(tx)
	})
	return c, err
}

// read reads the content of the buckets. Of a file of a newer schema, it reads only the schema.
func (c *contents) read(tx *bbolt.Tx) error {
	buckets := 0
	err := tx.ForEach(func([]byte, *bbolt.Bucket) error { buckets++; return nil })
	if err != nil || buckets == 0 {
		return err
	}
	meta, data, bound := tx.Bucket([]byte(bucketMeta)), tx.Bucket([]byte(bucketData)), tx.Bucket([]byte(bucketBound))
	if meta == nil || data == nil || bound == nil || buckets != 3 {
		return corrupt("it has other buckets than a store")
	}
	if c.schema, err = strconv.Atoi(string(meta.Get([]byte(keySchema)))); err != nil || c.schema < 1 {
		return corrupt("its schema is %.20q", meta.Get([]byte(keySchema)))
	}
	if c.schema > schema {
		return nil
	}
	index := meta.Get([]byte(keyIndex))
	if len(index) != 8 {
		return corrupt("its index has %d bytes", len(index))
	}
	c.index = binary.BigEndian.Uint64(index)
	if err := data.ForEach(c.readData); err != nil {
		return err
	}
	return bound.ForEach(readBound)
}

// readData reads a record. The value of a bucket is nil.
func (c *contents) readData(k, v []byte) error {
	if !isKey(k) || v == nil {
		return corrupt("%q is no key of a store", k[:min(len(k), 40)])
	}
	key := string(k)
	c.entries++
	r, err := parseRecord(key, v)
	if err != nil {
		c.damaged++
		return nil
	}
	if r.index == 0 || r.index > c.index {
		return corrupt("%s has index %d, of %d", key, r.index, c.index)
	}
	return nil
}

func readBound(k, v []byte) error {
	session, key, ok := bytes.Cut(k, []byte{0})
	if !ok || len(session) > maxSession || !isKey(key) || v == nil {
		return corrupt("%q binds nothing to a session", k[:min(len(k), 40)])
	}
	return nil
}

// isKey checks the length first, because a damaged key can have a length of gigabytes.
func isKey(b []byte) bool { return len(b) <= store.MaxKey && store.CheckKey(string(b)) == nil }

func corrupt(format string, args ...any) error {
	return dataset.Errorf(dataset.ErrCorrupt, format, args...)
}

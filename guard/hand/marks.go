package hand

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/google/uuid"
	"golang.org/x/sys/unix"

	"github.com/droverhq/drover/internal/clock"
	"github.com/droverhq/drover/internal/durable"
)

// markFiles stores the marks of all datasets: one file for each dataset, in a folder whose content is valid for this
// boot. Safe for concurrent use.
type markFiles struct {
	run   string
	clock clock.Clock
	mu    sync.Mutex // guards the files
}

// frozenFile returns the path of the file that exists while the guard keeps a dataset's filesystem frozen. The file
// is needed because the kernel reports that a filesystem is frozen, but not which program froze it. It contains the
// time of the freeze.
func (f *markFiles) frozenFile(id uuid.UUID) string {
	return filepath.Join(f.run, id.String()+".frozen")
}

// frozenAt returns when the guard froze the dataset's filesystem. frozen is false if the guard did not, or if the mark
// cannot be read.
func (f *markFiles) frozenAt(id uuid.UUID) (at time.Duration, frozen bool) {
	b, err := os.ReadFile(f.frozenFile(id))
	if err != nil {
		return 0, false
	}
	n, err := strconv.ParseInt(string(b), 10, 64)
	return time.Duration(n), err == nil
}

func (f *markFiles) setFrozen(id uuid.UUID, at time.Duration) error {
	return replace(f.frozenFile(id), strconv.AppendInt(nil, int64(at), 10))
}

// replace replaces a file atomically. It does not flush it, because the file is valid for this boot only.
func replace(path string, b []byte) error {
	if err := os.WriteFile(path+".tmp", b, 0o600); err != nil {
		return err
	}
	return os.Rename(path+".tmp", path)
}

// mark records one thing that an act does to a dataset or its holders and that Undo undoes. It is
// written before the act does it.
type mark struct {
	kind   string // markFreeze, markV1 and so on
	object string // a control group, a PID and its start time, a path, or a limit
}

const (
	markFreeze   = "freeze"
	markV1       = "cgroup1"
	markV2       = "cgroup2"
	markProcess  = "process"
	markSuspect  = "suspect" // a process that is stopped until it has been examined
	markReadOnly = "readonly"
	markLimit    = "limit"
)

// undoSuffix is the suffix of mark files. There is one file for each dataset.
const undoSuffix = ".undo"

func (f *markFiles) file(id uuid.UUID) string { return filepath.Join(f.run, id.String()+undoSuffix) }

const (
	lockFile  = "marks.lock"
	lockTime  = 200 * time.Millisecond
	lockPause = time.Millisecond
)

// lock locks the mark files of all datasets, in this process and with flock(2) against the hand of an earlier guard
// that still runs. Only root can open the lock file. If the other hand hangs and does not release the lock within
// lockTime, lock returns without the flock, because a fence must not wait.
func (f *markFiles) lock() (unlock func()) {
	f.mu.Lock()
	file, err := os.OpenFile(filepath.Join(f.run, lockFile), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return f.mu.Unlock
	}
	for range lockTime / lockPause {
		if err := unix.Flock(int(file.Fd()), unix.LOCK_EX|unix.LOCK_NB); !errors.Is(err, unix.EWOULDBLOCK) {
			break
		}
		<-f.clock.After(lockPause)
	}
	return func() {
		_ = file.Close() // which unlocks it
		f.mu.Unlock()
	}
}

// add adds a mark for a change that the caller is about to make. Idempotent. If another program, such as docker
// pause, has already made the change, the caller must not add a mark, because that program will undo the change.
func (f *markFiles) add(id uuid.UUID, m mark) error {
	if strings.ContainsAny(m.object, "\n\x00") {
		return fmt.Errorf("cannot record %s %q: it contains a newline or a zero byte", m.kind, m.object)
	}
	defer f.lock()()
	return f.addLocked(id, m)
}

// addLocked adds a mark. Idempotent. The lock is held.
func (f *markFiles) addLocked(id uuid.UUID, m mark) error {
	have, err := f.of(id)
	if err != nil || slices.Contains(have, m) {
		return err
	}
	return f.write(id, append(have, m))
}

// addProcesses adds a mark of a kind for each process of a list, in one write. ours[i] reports whether list[i] has one.
// A process that another program has stopped, such as docker pause, gets no mark, because that program will continue
// it. A suspect for which isCleared returns true gets no mark either. A process that is already stopped for another
// dataset gets a mark for this dataset too, so that it stays stopped when the other fence ends.
//
// The lock is held. The caller must hold it until the processes are stopped, because Undo and resolve hold
// it while they let a process continue.
func (f *markFiles) addProcesses(
	id uuid.UUID, list []Process, kind string, isCleared func(uuid.UUID, Process) bool,
) (ours []bool, err error) {
	all, err := f.ofOthers()
	if err != nil {
		return nil, err
	}
	have, err := f.of(id)
	if err != nil {
		return nil, err
	}
	noted := len(have)
	ours = make([]bool, len(list))
	for i, p := range list {
		cleared := kind == markSuspect && isCleared(id, p)
		ours[i] = !cleared && (all[p.markText()] || !isHalted(p))
		if m := (mark{kind, p.markText()}); ours[i] && !slices.Contains(have, m) {
			have = append(have, m)
		}
	}
	if len(have) == noted {
		return ours, nil
	}
	return ours, f.write(id, have)
}

// ofOthers returns the processes and control groups that are marked for any dataset except some, by mark.object. The
// lock is held.
func (f *markFiles) ofOthers(except ...uuid.UUID) (map[string]bool, error) {
	files, err := os.ReadDir(f.run)
	if err != nil {
		return nil, err
	}
	all := map[string]bool{}
	for _, e := range files {
		name, ok := strings.CutSuffix(e.Name(), undoSuffix)
		id, err := uuid.Parse(name)
		if !ok || err != nil || slices.Contains(except, id) {
			continue
		}
		marks, err := f.of(id)
		if err != nil {
			return nil, err
		}
		for _, m := range marks {
			switch m.kind {
			case markProcess, markSuspect, markV1, markV2:
				all[m.object] = true
			}
		}
	}
	return all, nil
}

// process returns the process of a markProcess or markSuspect, without its name.
func (m mark) process() (Process, error) {
	pid, start, _ := strings.Cut(m.object, " ")
	p := Process{}
	var err1, err2 error
	p.PID, err1 = strconv.Atoi(pid)
	p.Start, err2 = strconv.ParseUint(start, 10, 64)
	return p, errors.Join(err1, err2)
}

// remove removes a mark after the caller has undone the recorded act. Idempotent.
func (f *markFiles) remove(id uuid.UUID, m mark) error {
	defer f.lock()()
	have, err := f.of(id)
	if err != nil || !slices.Contains(have, m) { // Undo has removed it
		return err
	}
	return f.write(id, slices.DeleteFunc(have, func(has mark) bool { return has == m }))
}

// write replaces the marks of a dataset. The lock is held.
func (f *markFiles) write(id uuid.UUID, all []mark) error {
	var b []byte
	for _, m := range all {
		b = fmt.Appendf(b, "%s %s\n", m.kind, m.object)
	}
	return replace(f.file(id), b)
}

// of returns the marks of a dataset in the order in which they were added.
func (f *markFiles) of(id uuid.UUID) ([]mark, error) {
	b, err := os.ReadFile(f.file(id))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	var all []mark
	for line := range strings.Lines(string(b)) {
		if kind, what, ok := strings.Cut(strings.TrimSuffix(line, "\n"), " "); ok {
			all = append(all, mark{kind, what})
		}
	}
	return all, nil
}

// Forget removes the marks of a dataset in run, which is Options.Run, without undoing anything. It is called for
// marks of an earlier boot, because a boot undoes everything that the marks record.
func Forget(run string, id uuid.UUID) error {
	f := markFiles{run: run}
	return errors.Join(remove(f.file(id)), remove(f.frozenFile(id)))
}

// recordSuffix is the suffix of the records below Root.
const recordSuffix = ".json"

// Save writes the record of a dataset below Root, durably. If record is nil, Save removes it; it is no
// error if there is none.
func (t *Tool) Save(id uuid.UUID, record []byte) error {
	path := filepath.Join(t.Root, id.String()+recordSuffix)
	if record != nil {
		return durable.Replace(path, record)
	}
	if err := remove(path); err != nil {
		return err
	}
	return durable.SyncDir(t.Root)
}

// Load returns the records below Root. See LoadRecords.
func (t *Tool) Load() (map[uuid.UUID][]byte, error) { return LoadRecords(t.Root) }

// LoadRecords returns the records in a folder by dataset. A folder that does not exist has none. Files
// whose names are not those of records are ignored. It fails if one of the records cannot be read.
func LoadRecords(dir string) (map[uuid.UUID][]byte, error) {
	entries, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	all := map[uuid.UUID][]byte{}
	for _, e := range entries {
		name, ok := strings.CutSuffix(e.Name(), recordSuffix)
		id, err := uuid.Parse(name)
		if !ok || err != nil {
			continue
		}
		if all[id], err = os.ReadFile(filepath.Join(dir, e.Name())); err != nil {
			return nil, err
		}
	}
	return all, nil
}

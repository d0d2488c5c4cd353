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
	"time"

	"github.com/google/uuid"
	"golang.org/x/sys/unix"

	"github.com/droverhq/drover/internal/durable"
)

// frozenMark returns the path of the file that exists while we keep a dataset's filesystem frozen. It
// is needed because the kernel reports that a filesystem is frozen, but not by whom. The file contains
// the time of the freeze.
func (t *Tool) frozenMark(id uuid.UUID) string {
	return filepath.Join(t.Run, id.String()+".frozen")
}

// frozenAt returns when we froze the dataset's filesystem. frozen is false if we did not, or if the mark
// cannot be read.
func (t *Tool) frozenAt(id uuid.UUID) (at time.Duration, frozen bool) {
	b, err := os.ReadFile(t.frozenMark(id))
	if err != nil {
		return 0, false
	}
	n, err := strconv.ParseInt(string(b), 10, 64)
	return time.Duration(n), err == nil
}

func (t *Tool) markFrozen(id uuid.UUID, at time.Duration) error {
	return replace(t.frozenMark(id), strconv.AppendInt(nil, int64(at), 10))
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
	kind string // markFreeze, markV1 and so on
	what string // a control group, a PID and its start time, a path, or a limit
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

func (t *Tool) markFile(id uuid.UUID) string { return filepath.Join(t.Run, id.String()+undoSuffix) }

const (
	lockFile  = "marks.lock"
	lockTime  = 200 * time.Millisecond
	lockPause = time.Millisecond
)

// lockMarks locks the mark files of all datasets, in this process and with flock(2) against the hand of
// an earlier guard that still runs. Only root can open the lock file. If the other hand does not release
// the lock within lockTime, because it hangs, lockMarks returns without the flock: a fence must not wait.
func (t *Tool) lockMarks() (unlock func()) {
	t.noting.Lock()
	f, err := os.OpenFile(filepath.Join(t.Run, lockFile), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return t.noting.Unlock
	}
	for range lockTime / lockPause {
		if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); !errors.Is(err, unix.EWOULDBLOCK) {
			break
		}
		<-t.Clock.After(lockPause)
	}
	return func() {
		_ = f.Close() // which unlocks it
		t.noting.Unlock()
	}
}

// note adds a mark for something that is about to be done. Idempotent. The caller must not add a mark for
// something that another program has done already, such as docker pause: that program will undo it.
func (t *Tool) note(id uuid.UUID, m mark) error {
	if strings.ContainsAny(m.what, "\n\x00") {
		return fmt.Errorf("cannot record %s %q: it contains a newline or a zero byte", m.kind, m.what)
	}
	defer t.lockMarks()()
	return t.addMark(id, m)
}

// addMark adds a mark. Idempotent. The lock is held.
func (t *Tool) addMark(id uuid.UUID, m mark) error {
	have, err := t.marks(id)
	if err != nil || slices.Contains(have, m) {
		return err
	}
	return t.setMarks(id, append(have, m))
}

// noteProcesses adds marks[i] for list[i], for all processes in one write. ours[i] reports whether the
// mark was added. A process that another program has stopped, such as docker pause, gets no mark, because
// that program will continue it. A process that is already stopped for another dataset gets a mark for
// this one too, so that it stays stopped when the other fence ends.
//
// The lock is held. The caller must hold it until the processes are stopped, because Undo and resolve hold
// it while they let a process continue.
func (t *Tool) noteProcesses(id uuid.UUID, list []Process, marks []mark) (ours []bool, err error) {
	all, err := t.marksOfAll()
	if err != nil {
		return nil, err
	}
	have, err := t.marks(id)
	if err != nil {
		return nil, err
	}
	noted := len(have)
	ours = make([]bool, len(list))
	for i, p := range list {
		cleared := marks[i].kind == markSuspect && t.suspects.isCleared(id, p)
		if ours[i] = !cleared && (all.has(p.what()) || !halted(p)); !ours[i] {
			continue
		}
		if !slices.Contains(have, marks[i]) {
			have = append(have, marks[i])
		}
	}
	if len(have) == noted {
		return ours, nil
	}
	return ours, t.setMarks(id, have)
}

// marked is the set of processes and control groups that are marked, by mark.what.
type marked map[string]bool

func (m marked) has(what string) bool { return m[what] }

// marksOfAll returns the processes and control groups that are marked for any dataset except some. The
// lock is held.
func (t *Tool) marksOfAll(except ...uuid.UUID) (marked, error) {
	files, err := os.ReadDir(t.Run)
	if err != nil {
		return nil, err
	}
	all := marked{}
	for _, f := range files {
		name, ok := strings.CutSuffix(f.Name(), undoSuffix)
		id, err := uuid.Parse(name)
		if !ok || err != nil || slices.Contains(except, id) {
			continue
		}
		marks, err := t.marks(id)
		if err != nil {
			return nil, err
		}
		for _, m := range marks {
			switch m.kind {
			case markProcess, markSuspect, markV1, markV2:
				all[m.what] = true
			}
		}
	}
	return all, nil
}

// process returns the process of a markProcess or markSuspect, without its name.
func (m mark) process() (Process, error) {
	pid, start, _ := strings.Cut(m.what, " ")
	p := Process{}
	var err1, err2 error
	p.PID, err1 = strconv.Atoi(pid)
	p.Start, err2 = strconv.ParseUint(start, 10, 64)
	return p, errors.Join(err1, err2)
}

// unnote removes a mark after the caller has undone what it records. Idempotent.
func (t *Tool) unnote(id uuid.UUID, m mark) error {
	defer t.lockMarks()()
	have, err := t.marks(id)
	if err != nil || !slices.Contains(have, m) { // Undo has removed it
		return err
	}
	return t.setMarks(id, slices.DeleteFunc(have, func(has mark) bool { return has == m }))
}

// setMarks replaces the marks of a dataset. The lock is held.
func (t *Tool) setMarks(id uuid.UUID, all []mark) error {
	var b []byte
	for _, m := range all {
		b = fmt.Appendf(b, "%s %s\n", m.kind, m.what)
	}
	return replace(t.markFile(id), b)
}

// marks returns the marks of a dataset in the order in which they were added.
func (t *Tool) marks(id uuid.UUID) ([]mark, error) {
	b, err := os.ReadFile(t.markFile(id))
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

// Forget removes the marks of a dataset in run, which is Tool.Run, without undoing anything. It is for
// marks of an earlier boot, whose effects the boot has undone.
func Forget(run string, id uuid.UUID) error {
	t := Tool{Run: run}
	return errors.Join(remove(t.markFile(id)), remove(t.frozenMark(id)))
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
	if err := os.Remove(path); err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
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

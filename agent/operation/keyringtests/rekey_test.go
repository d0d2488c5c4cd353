package keyring_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"golang.org/x/sys/unix"

	"github.com/droverhq/drover/agent/agenttest"
	"github.com/droverhq/drover/agent/doctor"
	"github.com/droverhq/drover/agent/host"
	"github.com/droverhq/drover/agent/pool"
	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/keys"
	"github.com/droverhq/drover/test/require"
)

// A key program gets the name of the volume for which the key is needed, also when an unrecorded clone is read.
func TestKeyProgramGetsNameOfVolume(t *testing.T) {
	k := newKeyRig(t)
	d := k.encrypted("db@run")
	data := bytes.Clone(k.kind.key(d.ID))
	s, err := k.Control.Submit(t.Context(), api.Request{ID: uuid.New(), Kind: dataset.OpSnapshot, Volume: "db", Name: "now"})
	require.NoError(t, err)
	agenttest.Await(t, func() bool {
		op, err := k.Control.Operation(t.Context(), s.Operation.ID.String(), 0)
		return err == nil && op.State == dataset.OpDone
	})
	require.NoError(t, k.opens("db"))
	if _, err := k.Export(t.Context(), "db", "now", io.Discard); err != nil {
		t.Fatal(err)
	}
	if of := k.asked(); !slices.Equal(of, []string{d.ID.String()}) {
		t.Errorf("it was asked of %v, and the volume is %s", of, d.ID)
	}
	copied := k.encrypted("copy@snapshot-" + d.ID.String()[:8])
	if of := k.asked(); len(of) != 2 || !slices.Contains(of, copied.ID.String()) || !slices.Contains(of, d.ID.String()) {
		t.Errorf("for the clone %s it was asked of %v", copied.ID, of)
	}
	if err := k.opens("copy"); err != nil || !bytes.Equal(k.kind.key(copied.ID), data) {
		t.Error("a clone is opened by another data key", err)
	}
	shown := api.AssignedCopy{Record: &d, Copy: dataset.Copy{Dataset: d.ID, Node: k.Node(), Kind: dataset.CopySuperseded, Snapshot: uuid.New(), MountReadOnly: true}}
	k.Cache.SetCopy(d.ID, &shown)
	defer k.Cache.SetCopy(d.ID, nil)
	looked := d
	looked.ID = host.InspectionID(shown)
	k.asked()
	if got, err := k.Keys.DataKey(t.Context(), looked); err != nil || !bytes.Equal(got, data) {
		t.Error(err)
	}
	if of := k.asked(); !slices.Equal(of, []string{d.ID.String()}) {
		t.Errorf("for a look at what was overtaken it was asked of %v", of)
	}
	k.nowhere(data, k.secret(5))
}

// A data key is not wrapped by a key that differs when it is read a second time.
func TestRekeyVerifiesNewKey(t *testing.T) {
	k := newKeyRig(t)
	d, silver := k.encrypted("db@run"), k.encrypted("other@silver")
	require.NoError(t, os.WriteFile(k.program+".fickle", nil, 0o600))
	old := k.program + ".old"
	k.write(t, old, 5)
	k.refused(k.rekey("db", old), "the second read returned key ")
	set := api.Request{ID: uuid.New(), Kind: dataset.OpUpdate, Volume: "other", Profile: "run"}
	if _, err := k.Control.Submit(t.Context(), set); err != nil {
		t.Fatal(err)
	}
	k.refused(k.rekey("other", ""), "the second read returned key ")
	k.refused(k.Create(t.Context(), "copy@run", map[string]string{"from": "other"}), "the second read returned key ")
	k.refused(k.Create(t.Context(), "new@run", nil), "wrapped by key")
	for name, was := range map[string]dataset.Dataset{"db": d, "other": silver} {
		v, err := k.Control.Volume(t.Context(), name)
		if err != nil || !bytes.Equal(v.Encryption.Wrapped, was.Encryption.Wrapped) || !v.Profile.Encryption.Equal(was.Profile.Encryption) {
			t.Errorf("%s has %+v after a refusal, %v", name, v.Encryption, err)
		}
	}
	if err := k.opens("other"); err != nil {
		t.Error(err)
	}
	require.NoError(t, os.Remove(k.program+".fickle"))
	for _, name := range []string{"db", "other"} {
		if err := errors.Join(k.rekey(name, ""), k.opens(name)); err != nil {
			t.Error(err)
		}
	}
}

// A create that is resumed after a crash has the data key with which it began: the dataset can be opened with no
// other key.
func TestResumedCreateKeepsItsDataKey(t *testing.T) {
	k := newKeyRig(t)
	p, err := k.Control.Plan(t.Context(), k.Node(), api.Request{ID: uuid.New(), Kind: dataset.OpCreate, Volume: "db@gold"})
	require.NoError(t, err)
	first := *p.Operation
	made := *first.DatasetRecord
	first.DatasetRecord = &made
	if _, err := k.Keys.Seal(t.Context(), k.Pool(), &first); err != nil {
		t.Fatal(err)
	}
	if _, err := k.Pool().Create(t.Context(), made); err != nil { // then the process is killed
		t.Fatal(err)
	}
	data := bytes.Clone(k.kind.key(made.ID))
	k.write(t, k.gold, 3)
	_, err = k.Execute(t.Context(), &host.Job{}, *p.Operation)
	k.refused(err, made.Encryption.KeyID)
	k.write(t, k.gold, 1)
	if _, err := k.Execute(t.Context(), &host.Job{}, *p.Operation); err != nil {
		t.Fatal(err)
	}
	if err := k.opens("db"); err != nil || len(data) == 0 || !bytes.Equal(k.kind.key(made.ID), data) {
		t.Error("it is opened by another data key than it was made with", err)
	}
}

// A clone is never less encrypted than its source, whatever control says.
func TestCloneIsNeverLessEncryptedThanSource(t *testing.T) {
	k := newKeyRig(t)
	k.encrypted("db@gold")
	p, err := k.Control.Plan(t.Context(), k.Node(), api.Request{ID: uuid.New(), Kind: dataset.OpClone, Volume: "copy", Options: map[string]string{"from": "db"}})
	require.NoError(t, err)
	op := *p.Operation
	op.DatasetRecord.Profile.Encryption = dataset.KeySource{}
	_, err = k.Execute(t.Context(), &host.Job{}, op)
	if dataset.KindOf(err) != dataset.ErrInvalid || !strings.Contains(err.Error(), "source is encrypted") {
		t.Errorf("got %v", err)
	}
	if _, err := k.Pool().Stat(t.Context(), op.DatasetID); !errors.Is(err, dataset.ErrNotFound) {
		t.Errorf("the pool has it: %v", err)
	}
}

// copyPool has one copy, whose record is the one that was written last.
type copyPool struct {
	backends.Pool
	entry backends.Entry
	wrote int
}

func (p *copyPool) Stat(context.Context, uuid.UUID) (backends.Entry, error) { return p.entry, nil }

func (p *copyPool) WriteRecord(_ context.Context, d dataset.Dataset, _ bool) error {
	p.entry.Record = &d
	p.wrote++
	return nil
}

// After a rekey a copy needs only the new key: a move to the copy uses the record of control, whatever this node knew
// before, and the record beside the copy is updated.
func TestCopiesNeedOnlyNewKeyAfterRekey(t *testing.T) {
	k := newKeyRig(t)
	d := k.encrypted("db@gold")
	data := bytes.Clone(k.kind.key(d.ID))
	k.reprofile(k.profiled(k.silver))
	require.NoError(t, k.rekey("db", ""))
	now := k.known("db")
	require.NoError(t, os.Remove(k.gold))
	k.Cache.Remove(d.ID) // like a node that has a copy
	before := api.AssignedCopy{Record: &d, Copy: dataset.Copy{Dataset: d.ID, Kind: dataset.CopyReplica}}
	k.Cache.SetCopy(d.ID, &before)
	if err := k.Keys.CanOpen(t.Context(), now); err != nil {
		t.Errorf("with the new key: %v", err)
	}
	k.refused(k.Keys.CanOpen(t.Context(), d), "not found")
	for what, of := range map[string]dataset.Dataset{"beside the data": now, "heard": d} {
		after := before
		if what == "heard" {
			after.Record = &now
		}
		k.Cache.SetCopy(d.ID, &after)
		if got, err := k.Keys.DataKey(t.Context(), of); err != nil || !bytes.Equal(got, data) {
			t.Errorf("what is newer is %s: %v", what, err)
		}
	}

	onRecord := func() map[uuid.UUID]dataset.Dataset { return map[uuid.UUID]dataset.Dataset{d.ID: now} }
	// A move left a ready dataset if the pool has no copies.
	for _, state := range []backends.EntryState{backends.EntryCopy, backends.EntryReady} {
		target := &copyPool{entry: backends.Entry{ID: d.ID, State: state, Record: &d}}
		kept := api.AssignedCopy{Record: &now, Copy: before.Copy}
		k.Cache.SetCopy(d.ID, &kept)
		r := &doctor.Report{}
		k.CheckRecord(r, &pool.Pool{}, target.entry, onRecord)
		if said := fmt.Sprint(r.List); len(r.List) != 1 || !strings.Contains(said, "still needs key "+d.Encryption.KeyID) {
			t.Errorf("of a record with the old key doctor says %s", said)
		}
		for range 2 {
			require.NoError(t, k.Keys.UpdateCopyKey(t.Context(), target, kept))
		}
		beside := target.entry.Record
		r = &doctor.Report{}
		if k.CheckRecord(r, &pool.Pool{}, target.entry, onRecord); len(r.List) > 0 {
			t.Errorf("and then %v", r.List)
		}
		if target.wrote != 1 || !bytes.Equal(beside.Encryption.Wrapped, now.Encryption.Wrapped) || beside.Profile.Encryption.KeyFile != k.silver || d.Profile.Encryption.KeyFile != k.gold {
			t.Errorf("written %d times, beside it lies %+v of %+v", target.wrote, beside.Encryption, beside.Profile.Encryption)
		}
	}
	k.Cache.SetCopy(d.ID, nil)
}

// A record beside the data that was not updated by a rekey is reported until it is updated, with the command that
// updates it. A record whose data key is not on record cannot be repaired by anybody.
func TestDoctorReportsRecordsWithOldKey(t *testing.T) {
	k := newKeyRig(t)
	d := k.encrypted("db@gold")
	k.reprofile(k.profiled(k.silver))
	require.NoError(t, k.rekey("db", ""))
	now, subject := k.known("db"), "dataset "+d.ID.String()
	if f := k.said(subject); f.Text != "" {
		t.Fatalf("of a record that was written doctor says %+v", f)
	}
	require.NoError(t, k.Pool().WriteRecord(t.Context(), d, true))
	f := k.said(subject)
	if f.Level != api.LevelWarning || f.Fix != "drover volume rekey db" || !strings.Contains(f.Text, "still needs key "+d.Encryption.KeyID+", ") || !strings.Contains(f.Text, "needs key "+now.Encryption.KeyID+":") {
		t.Errorf("of a record with the old key doctor says %+v", f)
	}
	require.NoError(t, k.rekey("db", ""))
	if f := k.said(subject); f.Text != "" {
		t.Errorf("after what it says to do doctor says %+v", f)
	}
	trashed := now
	trashed.State = dataset.StateTrashed
	r := &doctor.Report{}
	k.CheckRecord(r, &pool.Pool{}, backends.Entry{ID: d.ID, State: backends.EntryReady, Record: &d}, func() map[uuid.UUID]dataset.Dataset { return map[uuid.UUID]dataset.Dataset{d.ID: trashed} })
	if len(r.List) != 1 || r.List[0].Fix != "drover trash restore "+d.ID.String()[:8]+", then drover volume rekey db" {
		t.Errorf("in the trash doctor says %+v", r.List)
	}

	exchanged := func() map[uuid.UUID]dataset.Dataset { return map[uuid.UUID]dataset.Dataset{d.ID: d} }
	as := func() map[uuid.UUID]dataset.Dataset { return map[uuid.UUID]dataset.Dataset{d.ID: now} }
	another := d
	another.Encryption = &dataset.Encryption{ID: uuid.New(), KeyID: d.Encryption.KeyID}
	for what, c := range map[string]struct {
		e   backends.Entry
		now func() map[uuid.UUID]dataset.Dataset
	}{
		"exchanged since":      {backends.Entry{ID: d.ID, State: backends.EntryReady, Record: &d}, exchanged},
		"of another data key":  {backends.Entry{ID: d.ID, State: backends.EntryReady, Record: &another}, as},
		"not on record":        {backends.Entry{ID: uuid.New(), State: backends.EntryReady, Record: &d}, as},
		"foreign":              {backends.Entry{ID: d.ID, State: backends.EntryForeign, Record: &d}, as},
		"on its way out":       {backends.Entry{ID: d.ID, State: backends.EntryDeleting, Record: &d}, as},
		"without a record":     {backends.Entry{ID: d.ID, State: backends.EntryReady}, as},
		"gone from the record": {backends.Entry{ID: d.ID, State: backends.EntryReady, Record: &d}, func() map[uuid.UUID]dataset.Dataset { return nil }},
	} {
		r := &doctor.Report{}
		if k.CheckRecord(r, &pool.Pool{}, c.e, c.now); len(r.List) > 0 {
			t.Errorf("a dataset %s: doctor reports %v", what, r.List)
		}
	}
}

// A superseded volume that is still in use here is rekeyed too: its users may stay for a long time.
func TestRekeyOfSupersededVolumeInUse(t *testing.T) {
	k := newKeyRig(t)
	d := k.encrypted("db@gold")
	if _, err := k.Mount(t.Context(), "db", "id"); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := k.Unmount(t.Context(), "db", "id"); err != nil {
			t.Error(err)
		}
	}()
	k.reprofile(k.profiled(k.silver))
	require.NoError(t, k.rekey("db", ""))
	now := k.known("db")
	require.NoError(t, k.Pool().WriteRecord(t.Context(), d, true))
	require.NoError(t, k.Copies.ReconcileLocked(t.Context(), api.AssignedCopy{Record: &now, Copy: dataset.Copy{Dataset: d.ID, Pool: d.Pool, Kind: dataset.CopyLeft}}))
	if e, err := k.Pool().Stat(t.Context(), d.ID); err != nil || e.State != backends.EntryReady || e.Record.Encryption.KeyID != now.Encryption.KeyID {
		t.Errorf("beside it lies %+v of %v, %v", e.Record.Encryption, e.State, err)
	}
}

// said returns the finding of doctor about a subject that needs action.
func (k *keyRig) said(subject string) (f api.Finding) {
	k.T.Helper()
	list, err := k.Doctor(k.T.Context())
	if err != nil {
		k.T.Fatal(err)
	}
	for _, l := range list {
		if l.Subject == subject && l.Level != api.LevelOK {
			f = l
		}
	}
	return f
}

// Doctor names everything for which a key is missing, and everything that still needs a key that is to be retired.
func TestDoctorReportsMissingAndRetiringKeys(t *testing.T) {
	k := newKeyRig(t)
	wants := func(subject, level, mend string, parts ...string) {
		t.Helper()
		f := k.said(subject)
		for _, p := range parts {
			if !strings.Contains(f.Text, p) {
				t.Errorf("of %s doctor says %q, and not %q", subject, f.Text, p)
			}
		}
		if f.Level != level || !strings.Contains(f.Fix, mend) {
			t.Errorf("of %s doctor says %+v", subject, f)
		}
	}
	first := k.encrypted("first@gold")
	k.encrypted("second@gold")
	run := k.encrypted("run@run")
	there := first
	there.ID, there.Volume = uuid.New(), "there"
	k.Cache.SetCopy(there.ID, &api.AssignedCopy{Record: &there, Copy: dataset.Copy{Dataset: there.ID, Kind: dataset.CopyLeft}})

	k.reprofile(k.profiled(k.silver))
	old := "key " + first.Encryption.KeyID + " of key file " + k.gold
	wants("volume first", api.LevelWarning, "drover volume rekey first", "still needs "+old)
	wants("volume second", api.LevelWarning, "drover volume rekey second", "still needs "+old)
	wants("volume run", "", "")
	require.NoError(t, k.rekey("second", ""))
	wants("volume second", "", "")
	k.reprofile(k.profiled(k.gold))
	require.NoError(t, k.rekey("second", ""))

	k.write(t, k.gold, 3)
	wants("volume first", api.LevelError, "drover volume rekey first --old-key-file", "cannot be mounted", first.Encryption.KeyID)
	wants("volume there", api.LevelWarning, "copy the key", "could not be mounted", first.Encryption.KeyID)
	require.NoError(t, k.Remove(t.Context(), "first@gold"))
	short := first.ID.String()[:8]
	wants("volume first in the trash", api.LevelError, "drover trash restore "+short+", then drover volume rekey first --old-key-file", "cannot be mounted")
	require.NoError(t, os.Remove(k.gold))
	wants("key file "+k.gold, api.LevelError, "without it, the data of these volumes is lost (drover trash ls)", "not found", "cannot be mounted: 1 (second)", "in the trash that could not be restored: 1 (first)", "1 (there)", "1 (gold)")
	require.NoError(t, k.Remove(t.Context(), "second@gold"))
	wants("key file "+k.gold, api.LevelWarning, "drover trash ls", "in the trash that could not be restored: 2 (first, second)")

	// Each volume may have a different key: then the program is called for each of them.
	own := "#!/bin/sh\nread ask\ncase $ask in *" + run.ID.String() + "*) exec cat $0.key;; esac\nexec cat " + k.silver + "\n"
	require.NoError(t, os.WriteFile(k.program, []byte(own), 0o700))
	wants("volume run", "", "")
	k.Cache.SetCopy(there.ID, nil)
	lost := run
	lost.Profile = lost.Profile.Clone()
	lost.Profile.Encryption = dataset.KeySource{}
	r := &doctor.Report{}
	k.CheckKeys(t.Context(), r, map[uuid.UUID]dataset.Dataset{run.ID: lost})
	if said := fmt.Sprint(r.List); !strings.Contains(said, "the location of its key was lost") || !strings.Contains(said, "drover volume rekey run") {
		t.Errorf("of a volume whose key is nowhere doctor says %s", said)
	}
}

// gatedProgram reports that it runs, and prints its key when the test allows it.
const gatedProgram = `#!/bin/sh
echo > "$0.runs"
read go < "$0.goes"
exec cat "$0.key"
`

// While a rekey waits for a key program, the volume can be mounted and unmounted. If another rekey changes the key
// meanwhile, the rekey reads it once more.
func TestRekeyDoesNotBlockMounts(t *testing.T) {
	k := newKeyRig(t)
	d := k.encrypted("db@run")
	require.NoError(t, os.WriteFile(k.program, []byte(gatedProgram), 0o700))
	pipe := func(name string) *os.File {
		require.NoError(t, unix.Mkfifo(k.program+name, 0o600))
		f, err := os.OpenFile(k.program+name, os.O_RDWR, 0)
		require.NoError(t, err)
		t.Cleanup(func() { _ = f.Close() })
		return f
	}
	runs, goes := pipe(".runs"), pipe(".goes")
	key, err := keys.New(k.secret(5), "test")
	require.NoError(t, err)
	data, err := key.Unwrap(*d.Encryption)
	require.NoError(t, err)

	ended := make(chan error, 1)
	go func() { ended <- k.rekey("db", "") }()
	told, count := make(chan struct{}), 0
	go func() {
		for b := make([]byte, 1); ; told <- struct{}{} {
			if _, err := runs.Read(b); err != nil {
				return
			}
		}
	}()
	for {
		select {
		case <-told:
		case err := <-ended:
			if err != nil {
				t.Error(err)
			}
			if count != 4 { // the new key each time, and once more after the other rekey
				t.Errorf("the program was run %d times", count)
			}
			if v, err := k.Control.Volume(t.Context(), "db"); err != nil || string(v.Encryption.Wrapped) == string(d.Encryption.Wrapped) {
				t.Errorf("the data key was not wrapped again: %v", err)
			}
			return
		}
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		unlock, err := k.Locks.Lock(ctx, d.ID, "unmount")
		cancel()
		if err != nil {
			t.Errorf("run %d: %v", count, err)
		} else {
			unlock()
		}
		if count++; count == 1 { // like another rekey
			now, other := d, key.Wrap(d.Encryption.ID, data)
			now.Encryption = &other
			k.Cache.Apply(now, 0)
		}
		if _, err := goes.WriteString("go\n"); err != nil {
			t.Fatal(err)
		}
	}
}

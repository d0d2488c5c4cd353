package backup

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/test/require"
)

func TestRecordIsReadAsWritten(t *testing.T) {
	t.Parallel()
	d := dataset.Dataset{
		ID: uuid.New(), Volume: "db", Profile: dataset.Profile{Name: "gold", Revision: "0123456789ab"}, Size: 1 << 30,
		Labels: map[string]string{"team": "sea"}, Encryption: &dataset.Encryption{KeyID: "k"},
	}
	snapshot := dataset.Snapshot{ID: uuid.New(), Size: 1 << 20, Profile: dataset.Profile{Name: "silver"}}
	for name, s := range map[string]*dataset.Snapshot{"volume": nil, "snapshot": &snapshot} {
		r := newRecord(d, s, time.Unix(1e9, 0), "host-a", "1.2.3", "xfs")
		text, err := json.Marshal(r)
		require.NoError(t, err)
		got, err := ParseRecord(text)
		require.NoError(t, err)
		again, err := json.Marshal(got)
		if err != nil || string(again) != string(text) {
			t.Errorf("%s: got %s, %v, want %s", name, again, err, text)
		}
		if !got.Encrypted || got.Volume != "db" || got.Labels["team"] != "sea" || got.Drover != "1.2.3" {
			t.Errorf("%s: got %+v", name, got)
		}
		if s != nil && (got.Snapshot != s.ID || got.Size != s.Size || got.Profile.Name != "silver") {
			t.Errorf("%s: got %+v", name, got)
		}
	}
}

// The pool's choice of a filesystem is not recorded as one of the user.
func TestRecordedFilesystem(t *testing.T) {
	t.Parallel()
	for given, list := range map[bool][]dataset.Filesystem{true: {{Type: "ext4"}}, false: {{Type: "ext4", Chosen: true}, {}}} {
		for _, fs := range list {
			d := dataset.Dataset{ID: uuid.New(), Volume: "db", Profile: dataset.Profile{Filesystem: fs}}
			if r := newRecord(d, nil, time.Unix(1e9, 0), "host-a", "1.2.3", "ext4"); r.Filesystem != "ext4" || r.FilesystemGiven != given {
				t.Errorf("%+v: got %+v", fs, r)
			}
		}
	}
}

func TestBadRecordIsRefused(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]struct {
		kind *dataset.Kind
		text string
	}{
		`{"version":2,"volume":7}`: {dataset.ErrUnsupported,
			"the record.json of the backup has version 2, and this drover reads versions up to 1: upgrade this drover"},
		`{"volume":"db"}`:               {dataset.ErrCorrupt, "the record.json of the backup has no version"},
		`{"version":1,"volume":"../x"}`: {dataset.ErrCorrupt, "the record.json of the backup: "},
		`{"version":1,"volume":7}`:      {dataset.ErrCorrupt, "the record.json of the backup cannot be read: "},
		`no`:                            {dataset.ErrCorrupt, "the record.json of the backup cannot be read: "},
		strings.Repeat(" ", 1<<20+1):    {dataset.ErrCorrupt, "the record.json of the backup has more than 1048576 bytes"},
	} {
		if _, err := ParseRecord([]byte(text)); !errors.Is(err, want.kind) || !strings.Contains(err.Error(), want.text) {
			t.Errorf("%.30s: got %v, want %s", text, err, want.text)
		}
	}
}

func TestTagsAreReadAsWritten(t *testing.T) {
	t.Parallel()
	full := Tags{
		Volume: "db", Dataset: uuid.New(), Operation: uuid.New(), Profile: "gold", Snapshot: uuid.New(),
	}
	for _, want := range []Tags{full, {Volume: "db", Dataset: uuid.New(), Operation: uuid.New()}} {
		list := want.List()
		if strings.Contains(strings.Join(list, ""), ",") {
			t.Errorf("a comma in %q", list)
		}
		if got, ok := ParseTags(append(list, "later=1")); !ok || got != want {
			t.Errorf("got %+v, %t, want %+v", got, ok, want)
		}
		if _, ok := ParseTags(list[1:]); ok {
			t.Errorf("%q is accepted", list[1:])
		}
	}
	if _, ok := ParseTags([]string{"drover", "volume=db,x", DatasetTag(uuid.New())}); ok {
		t.Error("a bad name is accepted")
	}
}

// Only the backup that control has recorded becomes the parent, and only if the content and the session are the same.
func TestOnlyRecordedParent(t *testing.T) {
	op := dataset.Operation{Parent: "recorded", ParentSession: "session", Content: 2}
	planned := dataset.Operation{ReadsAll: "planned"}
	for name, c := range map[string]struct {
		op               dataset.Operation
		content          uint64
		session          string
		parent, readsAll string
	}{
		"recorded":     {op, 2, "session", "recorded", ""},
		"none":         {planned, 2, "session", "", "planned"},
		"restored":     {op, 3, "session", "", "the content of the volume was replaced meanwhile"},
		"mounted anew": {op, 2, "later", "", "the volume was mounted or unmounted, or drover was started, since its last exact backup"},
	} {
		parent, readsAll := chooseParent(c.op, dataset.Dataset{Content: c.content}, c.session)
		if parent != c.parent || readsAll != c.readsAll {
			t.Errorf("%s: got %q, %q", name, parent, readsAll)
		}
	}
}

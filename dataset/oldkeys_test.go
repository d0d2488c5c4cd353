package dataset

import (
	"bytes"
	"encoding/json"
	"errors"
	"reflect"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"
)

// TestB16EarlierKeysOfRecords decodes records with the keys that commit 418222e wrote.
func TestB16EarlierKeysOfRecords(t *testing.T) {
	id := uuid.MustParse("f23ca986-54f5-4c51-a3a5-6b5f3f3d3f11")
	const u = `"f23ca986-54f5-4c51-a3a5-6b5f3f3d3f11"`
	type embedded struct {
		Copy
		Record *Dataset `json:"record"`
		Index  uint64   `json:"index"`
	}
	for name, c := range map[string]struct {
		earlier string
		want    any
	}{
		"dataset": {
			`{"id":` + u + `,"volume":"db","spelling":"db@gold","spelled_by":` + u + `,"spent":[` + u + `],"latest":` + u +
				`,"taken":{"from":` + u + `,"epoch":3},"guests":[{"node":` + u + `,"id":` + u + `}],"labels":{"spent":"no"}` +
				`,"losses":[{"epoch":2,"later":[` + u + `],"over":4,"fenced":` + u + `,"why":"by word","away":7,"forgotten":true}]}`,
			&Dataset{
				ID: id, Volume: "db", RequestedAs: "db@gold", RequestedBy: id, SupersededCopies: []uuid.UUID{id},
				HeadParent: id, TakenOver: &TakenOver{id, 3}, SharedMounts: []SharedMount{{Node: id, ID: id}},
				Labels: map[string]string{"spent": "no"},
				Losses: []Loss{{
					Epoch: 2, SurvivingSnapshots: []uuid.UUID{id}, EndedEpoch: 4, PreviousHome: id, Reason: "by word",
					UnreachableIndex: 7, SnapshotsForgotten: true,
				}},
			},
		},
		"operation": {
			`{"id":` + u + `,"asked":"abc","dataset_id":` + u + `,"dataset":{"volume":"db"},"files":true,"share":true,` +
				`"from":` + u + `,"holders":["m"],"manifest":{"sum":"00"}}`,
			&Operation{
				ID: id, RequestDigest: "abc", DatasetID: id, DatasetRecord: &Dataset{Volume: "db"}, FileCopy: true, SameShare: true,
				OtherNode: id, InUseBy: []string{"m"}, Manifest: &Manifest{SHA256: "00"},
			},
		},
		"embedded copy": {
			`{"dataset":` + u + `,"kind":"going","was":"superseded","shown":true,"record":{"volume":"db"},"index":9}`,
			&embedded{
				Copy:   Copy{Dataset: id, Kind: CopyCondemned, PreviousKind: CopySuperseded, MountReadOnly: true},
				Record: &Dataset{Volume: "db"}, Index: 9,
			},
		},
		"node":  {`{"does":["rekey"],"dropped":[` + u + `],"word":5}`, &Node{OperationKinds: []OpKind{OpRekey}, UnreportedPools: []uuid.UUID{id}, RegistrationNumber: 5}},
		"pool":  {`{"holds":["xfs"],"missing":["zfs: no module"]}`, &Pool{AcceptedFilesystems: []string{"xfs"}, MissingFeatures: []string{"zfs: no module"}}},
		"lease": {`{"wanted":` + u + `}`, &Lease{WantedBy: id}},
	} {
		got := reflect.New(reflect.TypeOf(c.want).Elem()).Interface()
		if err := DecodeRecord([]byte(c.earlier), got); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if diff := cmp.Diff(c.want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
		renamed, err := CurrentKeys([]byte(c.earlier), got)
		if err != nil {
			t.Errorf("%s: %v", name, err)
		}
		strict := json.NewDecoder(bytes.NewReader(renamed))
		strict.DisallowUnknownFields()
		if err := strict.Decode(got); err != nil {
			t.Errorf("%s: an earlier key remains: %v", name, err)
		}
		current, err := json.Marshal(c.want)
		if err != nil {
			t.Fatal(err)
		}
		again := reflect.New(reflect.TypeOf(c.want).Elem()).Interface()
		if err := DecodeRecord(current, again); err != nil {
			t.Errorf("%s: decode the current record: %v", name, err)
		}
		if diff := cmp.Diff(c.want, again); diff != "" {
			t.Errorf("%s: a current record was changed (-want +got):\n%s", name, diff)
		}
	}
}

// TestEarlierKeyWithBadValueIsAnError decodes records whose earlier keys cannot be renamed. Ignoring these keys would
// lose what they hold, for example that a copy is superseded.
func TestEarlierKeyWithBadValueIsAnError(t *testing.T) {
	for name, c := range map[string]struct {
		record string
		into   any
	}{
		"object is a number": {`{"volume":"db","spelling":"db@gold","taken":7}`, new(Dataset)},
		"list is an object":  {`{"volume":"db","spent":[],"guests":{"node":1}}`, new(Dataset)},
		"inner object":       {`{"kind":"move","asked":"abc","dataset":{"spelling":"db@gold","taken":"x"}}`, new(Operation)},
		"item of a list":     {`[{"volume":"db"},{"spelling":"db@gold","taken":false}]`, new([]Dataset)},
	} {
		if _, err := CurrentKeys([]byte(c.record), c.into); !errors.Is(err, ErrCorrupt) {
			t.Errorf("%s: CurrentKeys: %v, expected ErrCorrupt", name, err)
		}
		if err := DecodeRecord([]byte(c.record), c.into); !errors.Is(err, ErrCorrupt) {
			t.Errorf("%s: DecodeRecord: %v, expected ErrCorrupt", name, err)
		}
	}
}

// An operation has the key "dataset" in both versions, with another meaning.
func TestCurrentOperationIsNotChanged(t *testing.T) {
	want := Operation{ID: uuid.New(), DatasetID: uuid.New(), DatasetRecord: &Dataset{Volume: "db"}}
	b, err := json.Marshal(want)
	if err != nil {
		t.Fatal(err)
	}
	var got Operation
	if err := DecodeRecord(b, &got); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}

func TestDamagedRecordIsAnError(t *testing.T) {
	for _, b := range []string{``, `{`, `[]`, `{"spelling":`, `{"volume":"db","losses":7}`, `"spelling":`} {
		if err := DecodeRecord([]byte(b), new(Dataset)); err == nil {
			t.Errorf("%q was decoded", b)
		}
	}
}

// BenchmarkDecodeRecord compares the decoding of 1,000 records with that of package encoding/json.
func BenchmarkDecodeRecord(b *testing.B) {
	var all []Dataset
	for range 1000 {
		all = append(all, Dataset{
			ID: uuid.New(), Volume: "orders-of-the-shop", Home: uuid.New(), Pool: uuid.New(), State: StateReady,
			Profile: Profile{Name: "gold", Size: 20 << 30}, Created: time.Now(), Labels: map[string]string{"team": "shop"},
		})
	}
	text, err := json.Marshal(all)
	if err != nil {
		b.Fatal(err)
	}
	for name, decode := range map[string]func([]byte, any) error{"records": DecodeRecord, "encoding-json": json.Unmarshal} {
		b.Run(name, func(b *testing.B) {
			b.SetBytes(int64(len(text)))
			for b.Loop() {
				var got []Dataset
				if err := decode(text, &got); err != nil || len(got) != len(all) {
					b.Fatalf("got %d records, %v", len(got), err)
				}
			}
		})
	}
}

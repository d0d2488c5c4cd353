package dataset

import (
	"encoding/json"
	"reflect"
	"testing"
	"time"

	"github.com/google/uuid"
)

// The keys of a summary are those of the record, also the earlier ones.
func TestSummaryHasKeysOfDataset(t *testing.T) {
	for _, pair := range [][2]reflect.Type{
		{reflect.TypeFor[Summary](), reflect.TypeFor[Dataset]()},
		{reflect.TypeFor[ProfileSummary](), reflect.TypeFor[Profile]()},
	} {
		for _, f := range reflect.VisibleFields(pair[0]) {
			whole, ok := pair[1].FieldByName(f.Name)
			if !ok {
				t.Errorf("%s has no field %s", pair[1], f.Name)
				continue
			}
			for _, key := range []string{"json", "old"} {
				if got, want := f.Tag.Get(key), whole.Tag.Get(key); got != want {
					t.Errorf("%s.%s: got tag %s:%q, want %q", pair[0], f.Name, key, got, want)
				}
			}
			if f.Type != whole.Type && f.Name != "Profile" {
				t.Errorf("%s.%s: got type %s, want %s", pair[0], f.Name, f.Type, whole.Type)
			}
		}
	}
}

// A summary that is decoded from a record has the values of the record, and no field is forgotten.
func TestSummaryOfRecord(t *testing.T) {
	d := Dataset{
		ID: uuid.New(), Volume: "db", Aliases: []string{"old"}, State: StateTrashed,
		Profile: Profile{Name: "gold", Size: 1, Access: AccessMany, Backend: "loop", Filesystem: Filesystem{Type: "ext4"}, Revision: "0123456789ab", Replicas: Replicas{Count: 1}},
		Size:    2, Labels: map[string]string{"a": "b"}, Protected: true, Home: uuid.New(), Pool: uuid.New(), Epoch: 3,
		SharedMounts: []SharedMount{{Node: uuid.New()}}, Created: time.Unix(4, 0).UTC(),
		Trash: &Trash{At: time.Unix(5, 0).UTC()}, Copies: []uuid.UUID{uuid.New()}, Request: uuid.New(),
	}
	text, err := json.Marshal(d)
	if err != nil {
		t.Fatal(err)
	}
	var s Summary
	if err := DecodeRecord(text, &s); err != nil {
		t.Fatal(err)
	}
	want := d
	want.Profile = Profile{Name: "gold", Size: 1, Filesystem: d.Profile.Filesystem, Access: AccessMany, Replicas: Replicas{Count: 1}}
	want.Request = uuid.Nil
	if got := s.Dataset(); !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v, want %+v", got, want)
	}
	v := reflect.ValueOf(s)
	for i := range v.NumField() {
		if v.Field(i).IsZero() {
			t.Errorf("%s is empty: the test must set it", v.Type().Field(i).Name)
		}
	}
}

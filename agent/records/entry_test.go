package records

import (
	"fmt"
	"reflect"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
)

// TestEntryKeepsEveryField sets each field of a record alone, and then all of them: the cache returns the same record.
// A new field of dataset.Dataset must get a place in entry.
func TestEntryKeepsEveryField(t *testing.T) {
	fields := reflect.VisibleFields(reflect.TypeFor[api.IndexedDataset]())
	all := api.IndexedDataset{}
	for _, f := range fields {
		if f.Anonymous {
			continue
		}
		one := api.IndexedDataset{}
		setField(t, reflect.ValueOf(&one).Elem().FieldByIndex(f.Index))
		setField(t, reflect.ValueOf(&all).Elem().FieldByIndex(f.Index))
		if got := throughCache(one); !reflect.DeepEqual(got, one) {
			t.Errorf("field %s: got %+v, want %+v", f.Name, got, one)
		}
	}
	if got := throughCache(all); !reflect.DeepEqual(got, all) {
		t.Errorf("all fields: got %+v, want %+v", got, all)
	}
}

func throughCache(d api.IndexedDataset) api.IndexedDataset {
	c := NewCache()
	c.Load(d)
	return c.datasets[d.ID].indexed()
}

// setField gives a field a value that is not zero.
func setField(t *testing.T, v reflect.Value) {
	t.Helper()
	switch v.Interface().(type) {
	case time.Time:
		v.Set(reflect.ValueOf(time.Unix(1, 0)))
		return
	case uuid.UUID:
		v.Set(reflect.ValueOf(uuid.New()))
		return
	}
	switch v.Kind() {
	case reflect.String:
		v.SetString("x")
	case reflect.Bool:
		v.SetBool(true)
	case reflect.Int, reflect.Int64:
		v.SetInt(7)
	case reflect.Uint64:
		v.SetUint(7)
	case reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
	case reflect.Slice:
		v.Set(reflect.MakeSlice(v.Type(), 1, 1))
	case reflect.Map:
		v.Set(reflect.MakeMap(v.Type()))
	case reflect.Struct: // the profile
		setField(t, v.Field(0))
	default:
		t.Fatalf("no value for a field of kind %s", v.Kind())
	}
}

func TestRecordsShareEqualProfiles(t *testing.T) {
	c := NewCache()
	gold := dataset.Profile{Name: "gold", Revision: "1", Owner: &dataset.Owner{}}
	ids := make([]uuid.UUID, 3)
	for i := range ids {
		ids[i] = uuid.New()
		p := gold
		p.Owner = &dataset.Owner{}
		if i == 2 {
			p.Size = dataset.GiB // the same revision with an option of the create
		}
		c.Load(api.IndexedDataset{Dataset: dataset.Dataset{ID: ids[i], Volume: fmt.Sprint("v", i), Profile: p}})
	}
	if a, b := c.datasets[ids[0]].profile, c.datasets[ids[1]].profile; a != b || a.users != 2 {
		t.Errorf("two records with the same profile have the profiles %p and %p, with %d users", a, b, a.users)
	}
	if d, _ := c.Dataset(ids[2]); d.Profile.Size != dataset.GiB {
		t.Errorf("a record with another size has the profile of others: %+v", d.Profile)
	}
	d, _ := c.Dataset(ids[0])
	d.Profile.Name = "silver"
	c.Apply(d, 0)
	if got := len(c.profiles[profileKey{"gold", "1"}]); got != 2 {
		t.Errorf("%d profiles gold are in the cache, want 2", got)
	}
	for _, id := range ids {
		c.Remove(id)
	}
	if len(c.profiles) != 0 {
		t.Errorf("profiles of no record stay in the cache: %v", c.profiles)
	}
}

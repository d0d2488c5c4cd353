package store_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"strings"
	"testing"

	"github.com/droverhq/drover/control/store"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/test/assert"
	"github.com/droverhq/drover/test/require"
)

func TestCheckKey(t *testing.T) {
	for _, good := range []string{"a", "names/db", "a/b/c/d", "!~/\"'", strings.Repeat("k", store.MaxKey)} {
		assert.NoErrorf(t, store.CheckKey(good), "%.40q", good)
	}
	for _, bad := range []string{"", "/", "/a", "a/", "a//b", "a b", "a\tb", "a\x00", "ä", "a\x7f", "a\xff", ".", "..", "a/./b", "../a", "a/.."} {
		assert.ErrorIsf(t, store.CheckKey(bad), dataset.ErrInvalid, "%q", bad)
	}
	assert.ErrorIs(t, store.CheckKey(strings.Repeat("k", store.MaxKey+1)), store.ErrTooLarge)
}

// Consul counts the bytes of a request in JSON. No operation takes more bytes there than Size returns.
func TestSizeIsEnough(t *testing.T) {
	type op struct { // the struct of Consul, with its fields besides the key and the value
		KV                   map[string]any
		Node, Service, Check *int
	}
	prefix := strings.Repeat("p", 63) + "/data/"
	for _, key := range []string{"a", strings.Repeat("<&>\"\\", 20), strings.Repeat("k", store.MaxKey)} {
		for n := range 10 {
			value := make([]byte, n)
			b, err := json.Marshal(op{KV: map[string]any{
				"Verb": "check-not-exists", "Key": prefix + key, "Value": value, "Flags": uint64(math.MaxUint64),
				"Index": uint64(math.MaxUint64), "Session": strings.Repeat("s", 36),
			}})
			require.NoError(t, err)
			if size := store.Size(key, value); len(b)+1 > size {
				t.Errorf("%.20q with %d bytes takes %d, Size says %d", key, n, len(b)+1, size)
			}
		}
	}
}

func TestCheckPrefix(t *testing.T) {
	for prefix, good := range map[string]bool{"names/": true, "a/b/": true, "": false, "/": false, "names": false, "a//": false, "a b/": false} {
		if err := store.CheckPrefix(prefix); (err == nil) != good || err != nil && !errors.Is(err, dataset.ErrInvalid) {
			t.Errorf("%q: %v", prefix, err)
		}
	}
}

func TestCheckTxn(t *testing.T) {
	checks := func(n int) (list []store.Precondition) {
		for i := range n {
			list = append(list, store.Precondition{Key: fmt.Sprint("k", i)})
		}
		return list
	}
	sets := func(n, size int) (list []store.Write) {
		for i := range n {
			list = append(list, store.Write{Key: fmt.Sprint("k", i), Value: make([]byte, size)})
		}
		return list
	}
	for name, c := range map[string]struct {
		checks []store.Precondition
		writes []store.Write
		want   error
	}{
		"nothing":          {nil, nil, nil},
		"as many as can":   {checks(store.MaxOps / 2), sets(store.MaxOps/2, 1), nil},
		"one too many":     {checks(store.MaxOps / 2), sets(store.MaxOps/2+1, 1), store.ErrTooLarge},
		"bound counts two": {checks(store.MaxOps - 1), []store.Write{{Key: "live/a", Session: "s"}}, store.ErrTooLarge},
		"bound and fits":   {checks(store.MaxOps - 2), []store.Write{{Key: "live/a", Session: "s"}}, nil},
		"bound elsewhere":  {nil, []store.Write{{Key: "alive/a", Session: "s"}}, dataset.ErrInvalid},
		"not bound":        {nil, []store.Write{{Key: "live/a"}}, dataset.ErrInvalid},
		"largest value":    {nil, sets(1, store.MaxValue), nil},
		"too large value":  {nil, sets(1, store.MaxValue+1), store.ErrTooLarge},
		"as much as can":   {nil, sets(2, (store.MaxBytes/2-store.Size("k0", nil))/4*3), nil},
		"too much":         {checks(1), sets(2, (store.MaxBytes/2-store.Size("k0", nil))/4*3), store.ErrTooLarge},
		"bad checked key":  {[]store.Precondition{{Key: "a b"}}, nil, dataset.ErrInvalid},
		"bad written key":  {nil, []store.Write{{Key: "/a"}}, dataset.ErrInvalid},
		"twice":            {nil, []store.Write{{Key: "a"}, {Key: "a", Delete: true}}, dataset.ErrInvalid},
		"checked twice":    {[]store.Precondition{{Key: "a"}, {Key: "a"}}, nil, nil},
		"delete and value": {nil, []store.Write{{Key: "a", Delete: true, Value: []byte("x")}}, dataset.ErrInvalid},
		"delete, session":  {nil, []store.Write{{Key: "a", Delete: true, Session: "s"}}, dataset.ErrInvalid},
		"empty value":      {nil, []store.Write{{Key: "a"}}, nil},
	} {
		if err := store.CheckTxn(c.checks, c.writes); !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", name, err, c.want)
		}
	}
}

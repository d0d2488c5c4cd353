package plugin

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"testing"

	"github.com/docker/go-plugins-helpers/volume"
	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/test/require"
)

// The list arrives unchanged, whatever the names are.
func TestListIsJSON(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		list := rapid.SliceOf(rapid.Custom(func(t *rapid.T) Volume {
			return Volume{Spelling: rapid.String().Draw(t, "name"), Mountpoint: rapid.String().Draw(t, "mountpoint")}
		})).Draw(t, "list")
		var got bytes.Buffer
		require.NoError(t, volumeList(list).write(&got))
		want := volume.ListResponse{Volumes: []*volume.Volume{}}
		for _, v := range list {
			want.Volumes = append(want.Volumes, &volume.Volume{Name: v.Spelling, Mountpoint: v.Mountpoint})
		}
		var read volume.ListResponse
		require.NoError(t, json.Unmarshal(got.Bytes(), &read))
		if d := cmp.Diff(want, read); d != "" {
			t.Fatal(d)
		}
	})
}

func manyVolumes(n int) []Volume {
	list := make([]Volume, n)
	for i := range list {
		list[i] = Volume{Spelling: fmt.Sprintf("volume-%06d@gold", i), Mountpoint: fmt.Sprintf("/var/lib/drover/mnt/f23ca986-1b7f-4f7e-9a43-%012d", i)}
	}
	return list
}

// The memory that is needed to send a list does not grow with the list.
func TestListIsStreamed(t *testing.T) {
	for _, n := range []int{10, 10_000} {
		list := volumeList(manyVolumes(n))
		if allocs := testing.AllocsPerRun(5, func() { _ = list.write(io.Discard) }); allocs > 2 {
			t.Errorf("%d volumes: %f allocations", n, allocs)
		}
	}
	largest := 0
	err := volumeList(manyVolumes(10_000)).write(writerFunc(func(b []byte) (int, error) {
		largest = max(largest, len(b))
		return len(b), nil
	}))
	if err != nil || largest > chunk+1<<10 {
		t.Error(err, largest)
	}
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(b []byte) (int, error) { return f(b) }

func BenchmarkList(b *testing.B) {
	for _, n := range []int{100, 10_000} {
		list := volumeList(manyVolumes(n))
		b.Run(fmt.Sprintf("encode/%d", n), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				_ = list.write(io.Discard)
			}
		})
		e, _, _ := start(b, &fake{volumes: list}, Options{})
		b.Run(fmt.Sprintf("socket/%d", n), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				resp, err := e.http.Post("http://d/VolumeDriver.List", "", nil)
				require.NoError(b, err)
				_, _ = io.Copy(io.Discard, resp.Body)
				resp.Body.Close()
			}
		})
	}
}

func BenchmarkMount(b *testing.B) {
	f := &quiet{}
	e, _, _ := start(b, f, Options{})
	b.ReportAllocs()
	for b.Loop() {
		e.raw(b, "VolumeDriver.Mount", `{"Name":"db@gold","ID":"0123456789012345678901234567890123456789012345678901234567890123"}`)
	}
}

// quiet is a fake that records nothing.
type quiet struct{ fake }

func (*quiet) Mount(context.Context, dataset.Reference, string) (string, error) { return "/m", nil }

package volumes

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
)

// A volume whose home is unreachable names the home and what to do, whatever the home reported last. If another node has
// a copy, the advice says how the volume continues from it.
func TestAdviceForAnUnreachableHome(t *testing.T) {
	v := api.Volume{
		Node: "alpha", Unreachable: true, Dataset: dataset.Dataset{Volume: "db", State: dataset.StateReady},
		Status: &dataset.DatasetStatus{Problem: "its disk fails"},
	}
	for copies, want := range map[int]int{0: 2, 1: 3} {
		v.CopyDetails = nil
		for range copies {
			k := dataset.Copy{Kind: dataset.CopyReplica, Snapshot: uuid.New()}
			v.CopyDetails = append(v.CopyDetails, api.CopyDetail{NodeName: "beta", Copy: k})
		}
		problem, next := advice(time.Now(), v, volumePool{})
		if problem != "its home, node alpha, is unreachable" || len(next) != want || next[0] != "drover node inspect alpha" {
			t.Errorf("with %d copies: %s, %q, want %d lines", copies, problem, next, want)
		}
	}
}

// A volume that is full because its pool is gets no advice to resize it.
func TestAdviceNamesTheFullPool(t *testing.T) {
	v := api.Volume{
		PoolName: "fast", Dataset: dataset.Dataset{Volume: "db", State: dataset.StateReady, Size: 20 * dataset.GiB},
		Status: &dataset.DatasetStatus{
			Usage:    &dataset.Usage{Used: 18 * dataset.GiB, Available: 2 * dataset.GiB},
			Fullness: dataset.NearlyFull,
		},
	}
	problem, next := advice(time.Now(), v, volumePool{name: v.PoolName, status: &dataset.PoolStatus{Online: true, Size: 40 * dataset.GiB, Free: dataset.MiB}})
	if !strings.Contains(problem, "pool fast has only 1MiB free") || !slices.Contains(next, "drover snapshot ls --size") ||
		slices.Contains(next, v.GrowCommand()) {
		t.Errorf("full pool: %s, %v", problem, next)
	}
	problem, next = advice(time.Now(), v, volumePool{name: v.PoolName})
	if problem != "NEARLY FULL: 90% of 20GiB used" || !slices.Equal(next, []string{v.GrowCommand()}) {
		t.Errorf("pool with an unknown status: %s, %v", problem, next)
	}
}

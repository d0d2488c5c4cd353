package lab

import (
	"math"
	"strconv"
	"strings"
	"testing"

	"github.com/droverhq/drover/internal/long"
)

const speedProfiles = `
default: free
profiles:
  free: {size: 512MiB, quiesce: flush, on_delete: purge}
  slow: {size: 512MiB, qos: {write_bps: 5MiB, strict: true}, quiesce: flush, on_delete: purge}
  ops: {size: 512MiB, qos: {read_iops: 100, write_iops: 100, strict: true}, on_delete: purge}
  calm: {size: 512MiB, on_delete: purge}
  frozen: {size: 512MiB, qos: {write_bps: 5MiB, strict: true}, on_delete: purge}
`

// tries is the largest number of measurements: a machine that is busy with other work only makes a result worse.
const tries = 3

// TestSpeed tests the speed limits of a profile on cgroup v2, with the installed units and an engine's containers. No
// container ever exceeds its limit, and one that the machine does not slow down reaches it. The time without a limit
// tells the two cases apart.
func TestSpeed(t *testing.T) {
	long.Only(t)
	vm := installed(t, speedProfiles)
	vm.must(t, "tar -C / -c bin sbin lib lib64 | docker import - tools") // links: the tools are those of the machine
	if said := strings.Join(vm.must(t, "drover doctor"), "\n"); !strings.Contains(said, "v2") {
		t.Fatalf("no version 2:\n%s", said)
	}
	vm.bytesASecond(t)
	vm.dirty(t)
	if said := vm.must(t, "cat $(find /sys/fs/cgroup -name io.max)"); len(said) > 0 {
		t.Errorf("rules were left: %q", said)
	}
}

// container returns the arguments to run a container with a volume on /data and the machine's tools.
func container(volume, more string) string {
	return "docker run --network none --stop-signal KILL --volume-driver drover -v " + volume + ":/data -v /usr:/usr:ro " + more + " tools sh -c "
}

// seconds returns how long a command takes in a container, from the start of the command.
func (vm *VM) seconds(t *testing.T, volume, command string) float64 {
	t.Helper()
	said := vm.must(t, container(volume, "--rm")+"'read from _ </proc/uptime; "+command+" 2>/dev/null && read to _ </proc/uptime; echo $from; echo $to'")
	if len(said) != 2 {
		t.Fatalf("%s: %q", command, said)
	}
	return number(t, said[1]) - number(t, said[0])
}

func number(t *testing.T, s string) float64 {
	t.Helper()
	n, err := strconv.ParseFloat(s, 64)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// bytesASecond: 30 MiB at 5 MiB a second take six seconds.
func (vm *VM) bytesASecond(t *testing.T) {
	const due = 30 / 5.0
	for _, how := range []string{"oflag=direct", "conv=fsync"} {
		write, best, free := "dd if=/dev/zero of=/data/f bs=1M count=30 "+how, math.Inf(1), 0.0
		for range tries {
			free = max(free, vm.seconds(t, "other@free", write))
			took := vm.seconds(t, "db@slow", write)
			t.Logf("%s: 30 MiB in %.2f s (in %.2f s without a limit)", how, took, free)
			if took < 0.9*due {
				t.Errorf("%s: 30 MiB took %.2f s, want %.1f", how, took, due)
			}
			if best = min(best, took); best <= 1.1*due {
				break
			}
		}
		if best > 1.1*due && free < due/5 {
			t.Errorf("%s: 30 MiB took %.2f s at best, want %.1f", how, best, due)
		}
	}
}

// dirty: 200 MiB are in memory, with a limit of 5 MiB a second. They block neither a snapshot nor a stop, and a
// writer for two seconds at most.
func (vm *VM) dirty(t *testing.T) {
	// Data that is being written is not on the disk either.
	const fill = "docker exec db dd if=/dev/zero of=/data/f bs=1M count=200 2>/dev/null && awk '/^(Dirty|Writeback):/ { sum += $2 } END { print sum / 1024 }' /proc/meminfo"
	held := map[string]float64{}
	for _, profile := range []string{"free", "slow", "calm", "frozen"} {
		volume := profile + "@" + profile
		vm.must(t, container(volume, "-d --name db")+"'while :; do read at _ </proc/uptime; echo $at >>/data/log; sleep 0.01; done'")
		dirty := number(t, vm.must(t, fill)[0])
		said, exit := vm.shell(t, "read from _ </proc/uptime; drover snapshot create "+profile+" 2>&1; exit=$?; read to _ </proc/uptime; sleep 1; echo $from; echo $to; exit $exit")
		if len(said) < 2 {
			t.Fatal(said)
		}
		took, why := number(t, said[len(said)-1])-number(t, said[len(said)-2]), strings.Join(said[:len(said)-2], "\n")
		if exit != 0 {
			t.Errorf("%s: snapshot: %s", profile, why)
		}
		stall := vm.must(t, `awk 'NR > 1 && $1 - last > most { most = $1 - last } { last = $1 } END { print most + 0 }' $(docker volume inspect -f '{{.Mountpoint}}' `+volume+`)/log`)
		held[profile] = number(t, stall[0])
		t.Logf("%s: %.0f MiB in memory; snapshot in %.2f s (exit %d), the writer was held up for %.2f s", profile, dirty, took, exit, held[profile])
		again := number(t, vm.must(t, fill)[0])
		stop := vm.must(t, "read from _ </proc/uptime; docker stop db >/dev/null; read to _ </proc/uptime; echo $from; echo $to; docker rm db >/dev/null")
		stopped := number(t, stop[1]) - number(t, stop[0])
		t.Logf("%s: %.0f MiB in memory; docker stop in %.2f s", profile, again, stopped)
		if limited := profile == "slow" || profile == "frozen"; limited && min(dirty, again) < 150 {
			t.Errorf("%s: %.0f and %.0f MiB in memory say little of 200", profile, dirty, again)
		}
		if took > 30 || stopped > 30 { // half of the time for which Docker waits; 40 s if the limit is not lifted
			t.Errorf("%s: snapshot in %.2f s, docker stop in %.2f s", profile, took, stopped)
		}
	}
	for limited, free := range map[string]string{"slow": "free", "frozen": "calm"} {
		if held[limited] > 2 && held[free] < 1 {
			t.Errorf("%s: the writer was held up for %.2f s, without a limit for %.2f s", limited, held[limited], held[free])
		}
	}
}

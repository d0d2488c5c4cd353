package daemon

import (
	"slices"

	dto "github.com/prometheus/client_model/go"
)

// samples are the samples of one request. The result of families has one sample for each family and set of label
// values. A volume in the trash and the present volume of the same name may both be on this host. Both have the same
// labels then, so families keeps the worse of the two values.
type samples struct {
	hideVolumes bool
	of          map[*Family]*series
}

type series struct {
	list  []sample // can have several samples with the same label values
	worse func(a, b float64) float64
}

type sample struct {
	values []string
	value  float64
}

func newSamples(hideVolumes bool) *samples {
	return &samples{hideVolumes: hideVolumes, of: map[*Family]*series{}}
}

// set sets a sample. values are those of the labels of the family, in their order. The caller must not change them
// later, and can pass the same slice for several families. If a sample is set several times, the largest value stays.
func (s *samples) set(f *Family, value float64, values ...string) { s.add(f, value, values, larger) }

// setLow is like set for a family whose lower values are worse: the smallest value stays. A family is always set with
// the same one of the two functions.
func (s *samples) setLow(f *Family, value float64, values ...string) {
	s.add(f, value, values, smaller)
}

func larger(a, b float64) float64  { return max(a, b) }
func smaller(a, b float64) float64 { return min(a, b) }

func (s *samples) add(f *Family, value float64, values []string, worse func(a, b float64) float64) {
	if s.hideVolumes && f.perVolume() {
		return
	}
	all := s.of[f]
	if all == nil {
		all = &series{worse: worse}
		s.of[f] = all
	}
	all.list = append(all.list, sample{values, value})
}

// families returns the samples in the form in which Prometheus' library exposes them.
func (s *samples) families() (out []*dto.MetricFamily) {
	for f, all := range s.of {
		all.sort()
		out = append(out, all.family(f))
	}
	return out
}

// sort sorts the samples by their label values, and keeps the worse one of two with the same label values.
func (s *series) sort() {
	slices.SortFunc(s.list, func(a, b sample) int { return slices.Compare(a.values, b.values) })
	kept := s.list[:0]
	for _, next := range s.list {
		if n := len(kept); n > 0 && slices.Equal(kept[n-1].values, next.values) {
			kept[n-1].value = s.worse(kept[n-1].value, next.value)
			continue
		}
		kept = append(kept, next)
	}
	s.list = kept
}

// family makes all samples of a family in a few allocations.
func (s *series) family(f *Family) *dto.MetricFamily {
	n, each := len(s.list), len(f.labels)
	metrics, pairs := make([]dto.Metric, n), make([]dto.LabelPair, n*each)
	pointers, pairPointers := make([]*dto.Metric, n), make([]*dto.LabelPair, n*each)
	kind := dto.MetricType_GAUGE
	gauges, counters := []dto.Gauge(nil), []dto.Counter(nil)
	if f.kind == counter {
		kind, counters = dto.MetricType_COUNTER, make([]dto.Counter, n)
	} else {
		gauges = make([]dto.Gauge, n)
	}
	for i := range s.list {
		for j := range f.labels {
			at := i*each + j
			pairs[at].Name, pairs[at].Value = &f.labels[j], &s.list[i].values[j]
			pairPointers[at] = &pairs[at]
		}
		m := &metrics[i]
		m.Label = pairPointers[i*each : (i+1)*each : (i+1)*each]
		if f.kind == counter {
			counters[i].Value = &s.list[i].value
			m.Counter = &counters[i]
		} else {
			gauges[i].Value = &s.list[i].value
			m.Gauge = &gauges[i]
		}
		pointers[i] = m
	}
	return &dto.MetricFamily{Name: &f.name, Help: &f.help, Type: &kind, Metric: pointers}
}

package dataset

import (
	"sort"
	"strings"
)

// Nearest returns the choice that is most similar to word, ignoring case. If several choices are equally similar, it
// returns the first. A choice is similar if the number of typing errors is at most a third of the length of word,
// rounded to the nearest integer, or 1 for a short word. If no choice is similar, Nearest returns "".
func Nearest(word string, choices []string) string {
	if len(word) > maxWord {
		return ""
	}
	best, maxDistance := "", max(1, (len(word)+1)/3)
	for _, h := range choices {
		if len(h) > maxWord {
			continue
		}
		if d := distance(strings.ToLower(word), strings.ToLower(h)); d <= maxDistance {
			best, maxDistance = h, d-1
		}
	}
	return best
}

// Suggestion returns a hint to append to the error about a word that is none of the choices: "; did you mean gold?".
// If no choice is similar, it returns "".
func Suggestion(word string, choices []string) string {
	if n := Nearest(word, choices); n != "" {
		return "; did you mean " + n + "?"
	}
	return ""
}

// maxWord is the longest word for which similar choices are searched, so that a malicious word cannot cause much work.
// No name is longer.
const maxWord = 128

// FormatChoices returns the sorted words, joined for the "(available: …)" part of an error; "none" if there are none.
func FormatChoices(words []string) string {
	if len(words) == 0 {
		return "none"
	}
	s := append([]string(nil), words...)
	sort.Strings(s)
	return strings.Join(s, ", ")
}

// distance is the Damerau-Levenshtein distance with adjacent transpositions, because glod for gold is one typing
// error and not two.
func distance(a, b string) int {
	rows := make([][]int, len(a)+1)
	for i := range rows {
		rows[i] = make([]int, len(b)+1)
		rows[i][0] = i
	}
	for j := range rows[0] {
		rows[0][j] = j
	}
	for i := 1; i <= len(a); i++ {
		for j := 1; j <= len(b); j++ {
			cost := 1
			if a[i-1] == b[j-1] {
				cost = 0
			}
			d := min(rows[i-1][j]+1, rows[i][j-1]+1, rows[i-1][j-1]+cost)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				d = min(d, rows[i-2][j-2]+1)
			}
			rows[i][j] = d
		}
	}
	return rows[len(a)][len(b)]
}

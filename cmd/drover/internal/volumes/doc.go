// Package volumes has the commands of drover volume, and drover clone.
package volumes

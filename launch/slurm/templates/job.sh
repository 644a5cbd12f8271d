#!/bin/bash
# {{ title }}
# Written by: {{ written_by }}
# To submit it again: sbatch {{ path }}
{% for option in options %}
#SBATCH {{ option }}
{% endfor %}

# --- Signals -------------------------------------------------------------------------------------------------------
# Slurm sends USR1 before the time limit, and TERM and CONT at a preemption. The ranks save and exit with 75.
step= asked=
pass_on() { asked=yes; [[ -z $step ]] || kill -USR1 "$step"; }  # srun hands it to every rank
trap pass_on USR1 TERM
trap '' CONT

# --- Environment ---------------------------------------------------------------------------------------------------
{% for module in modules %}
module load {{ module }} || exit 2
{% endfor %}
{% for line in setup %}
{{ line }}
{% endfor %}
{% for name, value in environment %}
export {{ name }}={{ value }}
{% endfor %}
{% if scratch %}
export TMPDIR="{{ scratch }}"
{% endif %}
logs={{ logs }}
restart=${SLURM_RESTART_COUNT:-0}
echo "=== job $SLURM_JOB_ID, restart $restart, on $SLURM_JOB_NODELIST, $(date '+%F %T'); rank 0's log: $logs/rank_0000.log"

# Queues the job again, unless it was cancelled.
again() { [[ $(scontrol show job "$SLURM_JOB_ID") == *JobState=RUNNING* ]] && scontrol requeue "$SLURM_JOB_ID"; }

# --- A restart that makes no progress ------------------------------------------------------------------------------
# Notes this start, and gives up after {{ restarts }} restarts that made no progress, with the last errors of all ranks: {{ gave_up }}.
# Where srun fails itself, or the process sleeps, the start stays unnoted: the job queues again, {{ restarts }} times in a row at most.
((restart)) || rm -f "$logs/unnoted"
timeout --foreground --kill-after=60 {{ to_note }} srun --nodes=1 --ntasks=1 --open-mode=append{{ inside }} {{ attempt }}
noted=$?
if ((noted == 0)); then
    rm -f "$logs/unnoted"
elif ((noted == 2 || noted == {{ gave_up }})); then
    exit $((noted == 2 ? 2 : 1))
else
    echo "error: start $restart could not be noted: code $noted of srun, $(date '+%F %T')" | tee -a "$logs/unnoted" || exit 1
    (($(wc -l <"$logs/unnoted") > {{ restarts }})) || again
    exit 1
fi

# --- Where the ranks meet ------------------------------------------------------------------------------------------
# Rank 0's node, which runs this script, and the first port from its job's own on at which nothing is there. Should
# another job take it within the seconds until rank 0 does, this one queues again and takes the next.
export MASTER_ADDR=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
export MASTER_PORT=$((15000 + SLURM_JOB_ID % 15000))
taken() { grep -qs "^ *[0-9]*: [0-9A-F]*:$(printf %04X "$MASTER_PORT") " /proc/net/tcp /proc/net/tcp6; }
while taken; do MASTER_PORT=$((MASTER_PORT + 1)); done

# --- One task per rank, its log in a file of its own -----------------------------------------------------------------
# When one ends the others get {{ wait }} s to do so too: then a code is that of a rank, not of being killed.
head='echo "=== rank $SLURM_PROCID of $SLURM_STEP_NUM_TASKS on $(hostname), job $SLURM_JOB_ID, restart ${SLURM_RESTART_COUNT:-0}, $(date "+%F %T")"'
{% if scratch %}
head="mkdir -p \"\$TMPDIR\"; $head"
{% endif %}
srun --ntasks={{ ranks }} --cpus-per-task={{ cpus }} --wait={{ wait }} --kill-on-bad-exit=0 \
    --output="$logs/rank_%4t.log" --open-mode=append{{ inside }}{{ srun }} \
    bash -c "$head"'; exec "$@"' rank \
    {{ command }} &
step=$!
[[ -z $asked ]] || pass_on
while kill -0 "$step" 2>/dev/null; do wait "$step"; done  # a signal ends `wait`, not the step
wait "$step"
code=$?
step=
echo "$SLURM_JOB_ID $code" >"$logs/exit_code"
echo "=== ended with $code, $(date '+%F %T')"

# --- What follows ----------------------------------------------------------------------------------------------------
# 0 done; 75 saved and stopped; 76 a node is bad; above 128 a rank was killed or hung: these three queue again, as does a
# job whose rank 0 srun could not start, unless it was cancelled. 1 failed; 2 a mistake in its settings; 3 waits for people:
# these end it, and the jobs that need its result.
if ((code == 76)); then
    cat {{ run }}/bad_nodes.txt >>"$logs/bad_nodes.txt"
    bad=$(sort -u "$logs/bad_nodes.txt" | paste -sd,)
fi
began=$(grep -scF "job $SLURM_JOB_ID, restart $restart, " "$logs/rank_0000.log")  # 0: srun itself failed
if ((code == 75 || code == 76 || code > 128 || (code && !began))); then again; fi
if ((code == 76)); then  # on other nodes; being queued again ends the commands of this job, so that a later one must say so
    for second in 1 2 3 4 5; do
        sleep 1
        scontrol update JobId="$SLURM_JOB_ID" ExcNodeList={{ exclude }}"$bad" && break
    done
fi
exit "$code"
